package api

import (
	"encoding/base64"
	"encoding/binary"
)

// cursorVersion begins each cursor, so that its form can change.
const cursorVersion = 1

// EncodeCursor returns the opaque form of a position in a list. The kind says which list it belongs to: each of a service has its own.
func EncodeCursor(kind byte, position uint64) string {
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint([]byte{cursorVersion, kind}, position))
}

// DecodeCursor is the inverse of EncodeCursor; an empty cursor is the beginning. Any other text is invalid.
func DecodeCursor(kind byte, cursor string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	bad := Invalid("/cursor", "is not a cursor that this list gave out")
	if len(cursor) > 32 {
		return 0, bad
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(data) < 3 || data[0] != cursorVersion || data[1] != kind {
		return 0, bad
	}
	position, n := binary.Uvarint(data[2:])
	if n != len(data)-2 || EncodeCursor(kind, position) != cursor {
		return 0, bad
	}
	return position, nil
}
