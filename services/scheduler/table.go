package scheduler

import (
	"slices"

	"agentyard.dev/libs/api"
)

// follows says which state may follow which. Nothing follows an end but a retry, which somebody asks for. An active task waits again after an attempt that
// failed, found no capacity or was preempted.
//
//	blocked ──▶ queued ──▶ assigned ──▶ running ⇄ waiting_for_input
//	               ▲           │           │             │
//	               └── retry ──┴───────────┴─────────────┤
//	                                                     ▼
//	            succeeded · failed · cancelled · expired (from any state; succeeded from an active one)
var follows = map[api.TaskState][]api.TaskState{
	api.TaskBlocked:  {api.TaskQueued, api.TaskFailed, api.TaskCancelled, api.TaskExpired},
	api.TaskQueued:   {api.TaskAssigned, api.TaskFailed, api.TaskCancelled, api.TaskExpired},
	api.TaskAssigned: {api.TaskRunning, api.TaskWaiting, api.TaskQueued, api.TaskSucceeded, api.TaskFailed, api.TaskCancelled, api.TaskExpired},
	api.TaskRunning:  {api.TaskWaiting, api.TaskQueued, api.TaskSucceeded, api.TaskFailed, api.TaskCancelled, api.TaskExpired},
	api.TaskWaiting:  {api.TaskRunning, api.TaskQueued, api.TaskSucceeded, api.TaskFailed, api.TaskCancelled, api.TaskExpired},

	api.TaskSucceeded: {api.TaskQueued},
	api.TaskFailed:    {api.TaskQueued},
	api.TaskCancelled: {api.TaskQueued},
	api.TaskExpired:   {api.TaskQueued},
}

// mayFollow reports whether a task in state from may come to state to.
func mayFollow(from, to api.TaskState) bool { return slices.Contains(follows[from], to) }
