package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxFrame bounds one server-sent event: a message with attachments is at most 1 MiB
// before base64.
const maxFrame = 8 << 20

// frame is one server-sent event.
type frame struct {
	id, event string
	data      []byte
}

// frameReader splits an event stream (WHATWG HTML, "Server-sent events") into frames.
type frameReader struct{ lines *bufio.Scanner }

func newFrameReader(r io.Reader) *frameReader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 16<<10), maxFrame)
	s.Split(splitLine)
	return &frameReader{s}
}

// next returns the next frame that has data. It returns io.EOF at the stream's end, where
// an unfinished frame is discarded, as the standard demands.
func (r *frameReader) next() (frame, error) {
	var f frame
	var has bool
	for r.lines.Scan() {
		line := r.lines.Bytes()
		if len(line) == 0 {
			if has {
				return f, nil
			}
			f = frame{}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			if !bytes.ContainsRune(value, 0) {
				f.id = string(value)
			}
		case "event":
			f.event = string(value)
		case "data":
			if len(f.data)+len(value) > maxFrame {
				return frame{}, fmt.Errorf("an event is longer than %d bytes", maxFrame)
			}
			if has {
				f.data = append(f.data, '\n')
			}
			f.data = append(f.data, value...)
			has = true
		}
	}
	if err := r.lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return frame{}, fmt.Errorf("an event is longer than %d bytes", maxFrame)
		}
		return frame{}, err
	}
	return frame{}, io.EOF
}

// splitLine is a bufio.SplitFunc for lines that end with LF, CRLF or CR. A last line
// without an end is dropped: its frame is unfinished anyway.
func splitLine(data []byte, atEOF bool) (int, []byte, error) {
	i := bytes.IndexAny(data, "\r\n")
	switch {
	case i < 0 && atEOF:
		return len(data), nil, nil
	case i < 0:
		return 0, nil, nil
	case data[i] == '\n':
		return i + 1, data[:i], nil
	case i+1 < len(data):
		if data[i+1] == '\n' {
			return i + 2, data[:i], nil
		}
		return i + 1, data[:i], nil
	case atEOF:
		return i + 1, data[:i], nil
	}
	return 0, nil, nil // a CR at the end: its LF may follow
}
