package agent

import (
	"bufio"
	"errors"
	"io"
)

// MaxLine bounds one line of a protocol. A longer line is skipped, so an agent can
// neither exhaust the runner's memory nor end the conversation by printing.
const MaxLine = 8 << 20

// ReadLines calls f with each line of r, without its newline, until r ends or f
// returns an error. A line above MaxLine is read past and given to skipped as its
// length. The slice is valid during the call only.
func ReadLines(r io.Reader, f func(line []byte) error, skipped func(n int)) error {
	return readLines(r, MaxLine, f, skipped)
}

func readLines(r io.Reader, limit int, f func(line []byte) error, skipped func(n int)) error {
	br := bufio.NewReaderSize(r, 64<<10)
	var long []byte // a line that did not fit the reader's buffer
	dropped := 0    // length so far of a line that is being skipped
	for {
		part, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if dropped > 0 || len(long)+len(part) > limit {
				dropped += len(long) + len(part)
				long = nil
			} else {
				long = append(long, part...)
			}
			continue
		case err != nil && len(part) == 0 && len(long) == 0 && dropped == 0:
			return end(err)
		}
		if n := len(part); n > 0 && part[n-1] == '\n' {
			part = part[:n-1]
		}
		switch {
		case dropped > 0 || len(long)+len(part) > limit:
			skipped(dropped + len(long) + len(part))
		default:
			line := part
			if long != nil {
				line = append(long, part...)
			}
			if ferr := f(line); ferr != nil {
				return ferr
			}
		}
		long, dropped = nil, 0
		if err != nil {
			return end(err)
		}
	}
}

func end(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
