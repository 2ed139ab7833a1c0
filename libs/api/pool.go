package api

// PodLabel is the label that every pod of a session has, bound or not: the id with which it asks for its launch.
const PodLabel = "agentyard.dev/pod"

// Pool keeps runners of a profile ready before there are sessions for them. Each is used once. Only a runtime of pods keeps pools.
type Pool struct {
	Size  int `json:"size"`            // how many are ready while nobody takes one
	Burst int `json:"burst,omitempty"` // how many more may be made while sessions are being created
	// Schedule says when the pool is kept; empty: always. Outside of all its windows it is empty and sessions start cold.
	Schedule []PoolWindow `json:"schedule,omitempty"`
	Timezone string       `json:"timezone,omitempty"` // of Schedule, as in the IANA database; empty: UTC
}

// PoolWindow is a time of the week. One that ends before it begins ends on the next day.
type PoolWindow struct {
	Days []string `json:"days,omitempty"` // mon, tue, wed, thu, fri, sat, sun, on which it begins; empty: every day
	From string   `json:"from"`           // "08:00"
	To   string   `json:"to"`             // "18:30"; the same as From: all day
}

// PoolStatus is what has become of a profile's pool.
type PoolStatus struct {
	Want   int    `json:"want"`             // now, by size, burst and schedule
	Ready  int    `json:"ready"`            // wait for a session
	Coming int    `json:"coming"`           // are being made
	Reason string `json:"reason,omitempty"` // why it is not full, for a person
}

// GetPool shows a profile's pool.
var GetPool = Op[NameRef, PoolStatus]{
	Service: "sessions", Verb: "profile-pool", Permission: ProfileRead,
	Route: "GET /api/v1/profiles/{name}/pool", Summary: "Show how full a profile's pool is, and why not fuller",
}
