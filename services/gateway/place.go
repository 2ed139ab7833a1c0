package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// parseStart returns where each of keys starts (Last-Event-ID, else ?after=, else 0) and whether to follow.
func parseStart(r *http.Request, keys []bus.Key) (places []uint64, follow bool, err error) {
	q := r.URL.Query()
	switch q.Get("follow") {
	case "", "true":
		follow = true
	case "false":
	default:
		return nil, false, api.Invalid("/follow", "must be true or false")
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		places, err = parsePlaces("/last-event-id", id, keys)
	} else {
		places, err = parsePlaces("/after", q.Get("after"), keys)
	}
	return places, follow, err
}

// parsePlaces reads a start in one of its three forms: one number for all sessions; the event id of a stream of several,
// numbers joined with dots in the order of ?session=; or pairs, session:number joined with commas, where a session that is not
// named starts at the beginning.
func parsePlaces(field, text string, keys []bus.Key) ([]uint64, error) {
	places := make([]uint64, len(keys))
	bad := api.Invalid(field, "must be a sequence number, the id of an event of this stream, or session:number pairs joined with commas")
	switch {
	case text == "":
		return places, nil
	case len(text) > maxSSESessions*40:
		return nil, bad
	case strings.Contains(text, ":"):
		for pair := range strings.SplitSeq(text, ",") {
			id, num, _ := strings.Cut(pair, ":")
			seq, err := strconv.ParseUint(num, 10, 64)
			if err != nil {
				return nil, bad
			}
			known := false
			for i, k := range keys {
				if k.ID == id {
					places[i], known = seq, true
				}
			}
			if !known {
				return nil, bad
			}
		}
		return places, nil
	case strings.Contains(text, "."):
		parts := strings.Split(text, ".")
		if len(parts) != len(keys) {
			return nil, bad
		}
		for i, p := range parts {
			seq, err := strconv.ParseUint(p, 10, 64)
			if err != nil {
				return nil, bad
			}
			places[i] = seq
		}
		return places, nil
	}
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, bad
	}
	for i := range places {
		places[i] = seq
	}
	return places, nil
}
