package launch

import "agentyard.dev/libs/api"

// Pod is what a runtime of pods makes a runner's pod from. The runner is not told.
type Pod struct {
	Profile string `json:"profile,omitempty"` // the profile's name
	Image   string `json:"image,omitempty"`   // empty: the runner's own
	api.Pod
	SessionLabels map[string]string `json:"session_labels,omitempty"`
}
