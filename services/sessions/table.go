package sessions

import "agentyard.dev/libs/api"

// follows is the table of a session's life: which states may follow which. A state that is not a key is final.
//
//	pending ─▶ starting ─▶ running ⇄ pausing ─▶ paused ─▶ resuming ─▶ running
//	    │          │          │                   │           │
//	    └──────────┴──────────┴───────▶ stopping ◀┴───────────┘ ─▶ terminated
//	                                    failed (from each that is not final)
var follows = map[api.State][]api.State{
	api.StatePending:  {api.StateStarting, api.StateStopping, api.StateFailed},
	api.StateStarting: {api.StateRunning, api.StateStopping, api.StateFailed},
	// running to starting: the runner died and the next incarnation begins.
	api.StateRunning:  {api.StateStarting, api.StatePausing, api.StateStopping, api.StateFailed},
	api.StatePausing:  {api.StatePaused, api.StateStopping, api.StateFailed},
	api.StatePaused:   {api.StateResuming, api.StateStopping, api.StateFailed},
	api.StateResuming: {api.StateRunning, api.StateStopping, api.StateFailed},
	api.StateStopping: {api.StateTerminated, api.StateFailed},
}

// mayFollow reports whether a session in state from may become to.
func mayFollow(from, to api.State) bool {
	for _, s := range follows[from] {
		if s == to {
			return true
		}
	}
	return false
}

// takesMessages reports whether a message sent now will be answered, at once or later.
func takesMessages(s api.State) bool {
	switch s {
	case api.StatePending, api.StateStarting, api.StateRunning, api.StatePaused, api.StateResuming:
		return true
	}
	return false
}

// wantsRunner reports whether a runner should be there in state s.
func wantsRunner(s api.State) bool {
	switch s {
	case api.StateStarting, api.StateRunning, api.StateResuming:
		return true
	}
	return false
}
