package rpc

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// Requests that many ask of one service at the same time travel together: whoever is first waits until those that are about to ask have done so, and one
// message carries them all (gather.go). For the bus that is one message and not dozens. Whoever asks alone sends a message of its own,
// which is all that a release before this one knows.
//
// A service may publish once to the reply subject of a message. So a bundle's answer carries what is answered when nothing is left or somebody has waited for
// bundleWait; if something is left, the asker sends an empty message to the answer's own reply subject, and the reply to that carries the
// next answers, and so on (unbundle.go): who is slow holds up the others for bundleWait at most.
//
// A bundle is a request of the verb bundleVerb, which is answered not_found, with nothing done, by a service that does not know it.
const (
	bundleVerb = "bundle"
	// maxParcels bounds the requests in one bundle, so that several instances share what is asked; maxBundled those that may travel together at all, in bytes,
	// and bundleBytes all of one bundle's: well below what a message may carry.
	maxParcels  = 32
	maxBundled  = 16 << 10
	bundleBytes = 128 << 10
	// bundleWait is longer than most operations take when much is asked, and not much beside what else a person waits for.
	bundleWait = 5 * time.Millisecond
	// maxHeaders bounds the headers of one request.
	maxHeaders = 16
)

// parcel is one request or one answer in a bundle: the name is the request's verb, or the answered request's number in its bundle. A bundle is the number of
// its parcels, and of each the name, the number of headers, each header's name and value, and the data. Numbers and the lengths before texts are unsigned varints.
type parcel struct {
	name   string
	header nats.Header
	data   []byte
}

// size is at least what p takes in a bundle.
func (p *parcel) size() int {
	n := 4*binary.MaxVarintLen32 + len(p.name) + len(p.data)
	for k := range p.header {
		n += 2*binary.MaxVarintLen32 + len(k) + len(carrier(p.header).Get(k))
	}
	return n
}

// appendParcels appends a bundle to b.
func appendParcels[P interface{ encode([]byte) []byte }](b []byte, parcels []P) []byte {
	b = binary.AppendUvarint(b, uint64(len(parcels)))
	for _, p := range parcels {
		b = p.encode(b)
	}
	return b
}

func (p *parcel) encode(b []byte) []byte {
	b = appendText(b, p.name)
	b = binary.AppendUvarint(b, uint64(len(p.header)))
	for k := range p.header {
		b = appendText(appendText(b, k), carrier(p.header).Get(k))
	}
	return appendText(b, p.data)
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// readParcels reads a bundle. Its parcels' data is part of b.
func readParcels(b []byte) ([]parcel, error) {
	r := parcelReader{rest: b, text: string(b)} // one copy for all names and headers
	parcels := make([]parcel, r.number(maxParcels))
	for i := range parcels {
		p := &parcels[i]
		p.name = r.string()
		if n := r.number(maxHeaders); n > 0 {
			p.header = make(nats.Header, n)
			values := make([]string, n)
			for i := range values {
				key := r.string()
				values[i] = r.string()
				p.header[key] = values[i : i+1 : i+1]
			}
		}
		p.data = r.bytes()
	}
	if r.failed || len(r.rest) > 0 {
		return nil, errBundle
	}
	return parcels, nil
}

var errBundle = errors.New("the bundle cannot be read")

// parcelReader reads from rest, which is the end of text. After something that is not there it returns nothing.
type parcelReader struct {
	rest   []byte
	text   string
	failed bool
}

func (r *parcelReader) fail() { r.rest, r.failed = nil, true }

func (r *parcelReader) number(most int) int {
	n, width := binary.Uvarint(r.rest)
	if width <= 0 || n > uint64(most) { //nolint:gosec // not negative
		r.fail()
		return 0
	}
	r.rest = r.rest[width:]
	return int(n) //nolint:gosec // at most most
}

func (r *parcelReader) bytes() []byte {
	n := r.number(len(r.text))
	if n > len(r.rest) {
		r.fail()
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *parcelReader) string() string {
	n := len(r.bytes())
	end := len(r.text) - len(r.rest)
	return r.text[end-n : end]
}
