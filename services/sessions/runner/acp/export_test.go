package acp

import (
	"encoding/json"

	"agentyard.dev/libs/api"
)

// Translate is event on an update's JSON.
func Translate(data []byte) (api.Event, bool) {
	var u Update
	if json.Unmarshal(data, &u) != nil {
		return api.Event{}, false
	}
	return event(u)
}
