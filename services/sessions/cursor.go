package sessions

import (
	"encoding/base64"
	"encoding/binary"

	"agentyard.dev/libs/api"
)

// cursorVersion begins each cursor, so that its form can change.
const cursorVersion = 1

// A cursor's kind says which list it belongs to.
const (
	cursorSessions byte = 's' // the creation revision of the page's last session
	cursorHistory  byte = 'h' // the revision of the page's last change
	cursorMessages byte = 'm' // the sequence up to which the log was read
	cursorProfiles byte = 'p' // the index of the page's last profile
	// the creation revision of the page's last entry
	cursorSecrets     byte = 'x'
	cursorCredentials byte = 'c'
)

// encodeCursor returns the opaque form of a position in a list.
func encodeCursor(kind byte, position uint64) string {
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint([]byte{cursorVersion, kind}, position))
}

// decodeCursor is the inverse of encodeCursor; an empty cursor is the beginning. Any other text is invalid.
func decodeCursor(kind byte, cursor string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	bad := api.Invalid("/cursor", "is not a cursor that this list gave out")
	if len(cursor) > 32 {
		return 0, bad
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(data) < 3 || data[0] != cursorVersion || data[1] != kind {
		return 0, bad
	}
	position, n := binary.Uvarint(data[2:])
	if n != len(data)-2 || encodeCursor(kind, position) != cursor {
		return 0, bad
	}
	return position, nil
}
