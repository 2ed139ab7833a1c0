package controller

import (
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
)

// fill says what a session's node gives it now, where sessions contend for the node's uplink and it is less than its ceilings.
func (k *counts) fill(e *api.TrafficEffective, session string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.sessions[session]
	if s == nil || now.Sub(s.heard) > countsKept {
		return
	}
	if s.is.DownloadNow != 0 {
		e.Download.Now = tc.BitsPerSecond(s.is.DownloadNow).String()
	}
	if s.is.UploadNow != 0 {
		e.Upload.Now = tc.BitsPerSecond(s.is.UploadNow).String()
	}
}
