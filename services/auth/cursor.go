package auth

import (
	"encoding/base64"
	"encoding/binary"

	"agentyard.dev/libs/api"
)

// A cursor is opaque to clients: a version and the Created of the last entry of the page before. It holds nothing secret: what a
// page may show is decided by the caller's principal each time.
const cursorVersion = 1

var cursorEncoding = base64.RawURLEncoding.Strict()

func encodeCursor(created uint64) string {
	return cursorEncoding.EncodeToString(binary.BigEndian.AppendUint64([]byte{cursorVersion}, created))
}

// decodeCursor returns 0 for the empty cursor: the first page.
func decodeCursor(cursor string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	if len(cursor) == 12 {
		b, err := cursorEncoding.DecodeString(cursor)
		if err == nil && b[0] == cursorVersion {
			if created := binary.BigEndian.Uint64(b[1:]); created > 0 {
				return created, nil
			}
		}
	}
	return 0, api.Invalid("/cursor", "is not a next_cursor of this list; start without one")
}
