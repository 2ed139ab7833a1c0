package launch

import (
	"bytes"
	"compress/flate"
	"crypto/ecdh"
	"crypto/hpke"
	"io"

	"agentyard.dev/libs/api"
)

// A pod is told its launch on a subject on which everybody may listen who has its credential, and that is in its manifest. So the launch is sealed (HPKE, RFC 9180) to a
// key that the pod made for its question and that never leaves it.

// Opener is a pod's key.
type Opener struct{ key hpke.PrivateKey }

// NewOpener makes a key.
func NewOpener() (Opener, error) {
	key, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	return Opener{key}, err
}

// Public is what goes with the question.
func (o Opener) Public() []byte { return o.key.PublicKey().Bytes() }

// Open returns what a Sealer for this key sealed for the pod of that id and UID. It fails for anything else.
func (o Opener) Open(id, uid string, sealed []byte) ([]byte, error) {
	text, err := hpke.Open(o.key, hpke.HKDFSHA256(), hpke.AES256GCM(), sealInfo(id, uid), sealed)
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "open the launch: %w", err)
	}
	if len(text) == 0 {
		return nil, api.Errorf(api.CodeInternal, "open the launch: it is empty")
	}
	if form := text[0]; form == formPlain {
		return text[1:], nil
	}
	if text, err = io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(text[1:])), maxText)); err != nil {
		return nil, api.Errorf(api.CodeInternal, "open the launch: %w", err)
	}
	return text, nil
}

// What is sealed begins with the form of the rest.
const (
	formPlain byte = iota
	formDeflated

	// A sealed launch is written as text once more, by a third longer; a large one, which is files written as text, is deflated before, so that whatever the bus takes plain it
	// takes sealed.
	largeText = 2 << 20
	maxText   = 16 << 20
)

// Sealer is where an answer can be sealed to.
type Sealer struct{ key hpke.PublicKey }

// NewSealer fails with invalid for what is no Opener's Public.
func NewSealer(public []byte) (Sealer, error) {
	key, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(public)
	if err != nil {
		return Sealer{}, api.Invalid("/key", "is not an X25519 public key")
	}
	return Sealer{key}, nil
}

// Seal seals text for the pod of that id and UID.
func (s Sealer) Seal(id, uid string, text []byte) ([]byte, error) {
	form := bytes.NewBuffer(make([]byte, 0, 1+min(len(text), largeText)))
	if len(text) <= largeText {
		form.WriteByte(formPlain)
		form.Write(text)
	} else if err := deflate(form, text); err != nil {
		return nil, api.Errorf(api.CodeInternal, "deflate the launch: %w", err)
	}
	sealed, err := hpke.Seal(s.key, hpke.HKDFSHA256(), hpke.AES256GCM(), sealInfo(id, uid), form.Bytes())
	if err != nil { // a key that leads to nothing
		return nil, api.Invalid("/key", "cannot be sealed to")
	}
	return sealed, nil
}

func deflate(to *bytes.Buffer, text []byte) error {
	to.WriteByte(formDeflated)
	w, err := flate.NewWriter(to, flate.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	return w.Close()
}

func sealInfo(id, uid string) []byte { return []byte("agentyard launch\x00" + id + "\x00" + uid) }
