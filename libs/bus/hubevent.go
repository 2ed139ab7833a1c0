package bus

import (
	"bytes"
	"fmt"
	"strconv"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
)

// HubEvent is an event as a gateway passes it on: what it must know of it, and its JSON form,
// made once and shared. Do not modify it.
type HubEvent struct {
	Seq  uint64
	Type api.EventType
	To   uint64 // of a gap
	JSON []byte // one line

	event api.Event // decoded; of a follower that wants no JSON
}

// Event decodes the event.
func (ev *HubEvent) Event() (api.Event, error) {
	if ev.JSON == nil {
		return ev.event, nil
	}
	var out api.Event
	if err := json.Unmarshal(ev.JSON, &out); err != nil {
		return api.Event{}, fmt.Errorf("decode event: %w", err)
	}
	return out, nil
}

func plain(ev api.Event) *HubEvent {
	return &HubEvent{Seq: ev.Seq, Type: ev.Type, To: ev.To, event: ev}
}

// encode makes the JSON form of an event that has none yet.
func (ev *HubEvent) encode() { ev.JSON, _ = json.Marshal(ev.event) } // nothing of ours cannot be encoded

// decoded opens an entry for followers in this program.
func decoded(session string, m stored) []*HubEvent {
	evs := decodeEntry(session, m)
	out := make([]*HubEvent, len(evs))
	for i, ev := range evs {
		out[i] = plain(ev)
	}
	return out
}

// spliced opens an entry for clients: the JSON that the log holds goes on as it is, with the
// sequence and the session added, since decoding and encoding it again would be most of a
// replay's cost. What a session's runner wrote is checked first: it must be JSON on one line, so that it
// cannot end an event stream's frame, and our two fields stand last, so that they prevail.
func spliced(session string, m stored) []*HubEvent {
	objects, ok := splitEntry(m.data)
	if !ok {
		ev := decoded(session, stored{seq: m.seq, header: m.header})[0] // says that it cannot be read
		ev.encode()
		return []*HubEvent{ev}
	}
	out := make([]*HubEvent, len(objects))
	events := make([]HubEvent, len(objects))
	text := make([]byte, 0, len(m.data)+len(objects)*(len(session)+40)) // of all of them
	for i, data := range objects {
		ev, start := &events[i], len(text)
		ev.Seq = entrySeq(m.seq, i, len(objects))
		ev.Type, _ = eventType(data)
		text = append(text, data[:len(data)-1]...)
		text = append(text, `,"seq":`...)
		text = strconv.AppendUint(text, ev.Seq, 10)
		text = append(text, `,"session":"`...)
		text = append(text, session...)
		text = append(text, `"}`...)
		ev.JSON = text[start:len(text):len(text)]
		out[i] = ev
	}
	return out
}

// splitEntry returns the objects of an entry, each valid JSON on one line with a type.
func splitEntry(data []byte) ([][]byte, bool) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 || bytes.IndexByte(data, '\n') >= 0 || bytes.IndexByte(data, '\r') >= 0 || !json.Valid(data) {
		return nil, false
	}
	objects := [][]byte{data}
	if data[0] == '[' {
		objects = elements(data)
		if len(objects) == 0 || len(objects) > maxEntry {
			return nil, false
		}
	}
	for _, o := range objects {
		if _, ok := eventType(o); !ok {
			return nil, false
		}
	}
	return objects, true
}

// elements returns the elements of a valid JSON array, as they stand there.
func elements(array []byte) [][]byte {
	var out [][]byte
	depth, start := 0, 1
	for i := 1; i < len(array)-1; i++ {
		switch array[i] {
		case '"':
			for i++; array[i] != '"'; i++ { // valid: the string ends
				if array[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, bytes.TrimSpace(array[start:i]))
				start = i + 1
			}
		}
	}
	if last := bytes.TrimSpace(array[start : len(array)-1]); len(last) > 0 {
		out = append(out, last)
	}
	return out
}

// typePrefix begins every event that encodeEvent made.
var typePrefix = []byte(`{"type":"`)

// eventType returns the type of an encoded event: a word, as it stands in an event stream's frame.
func eventType(object []byte) (api.EventType, bool) {
	rest, ok := bytes.CutPrefix(object, typePrefix)
	if !ok {
		return "", false
	}
	word, _, ok := bytes.Cut(rest, []byte{'"'})
	if !ok || len(word) == 0 || len(word) > 40 {
		return "", false
	}
	for _, c := range word {
		if (c < 'a' || c > 'z') && c != '_' {
			return "", false
		}
	}
	return api.EventType(word), true
}
