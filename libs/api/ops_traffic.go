package api

// Operations of the traffic controller.
var (
	CreateTrafficPolicy = Op[CreateTrafficPolicyRequest, TrafficPolicy]{
		Service: "tcagent", Verb: "policy-create", Permission: TrafficWrite,
		Route: "POST /api/v1/traffic/policies", Status: 201, Summary: "Create a traffic policy",
	}
	ListTrafficPolicies = Op[List, Page[TrafficPolicy]]{
		Service: "tcagent", Verb: "policy-list", Permission: TrafficRead,
		Route: "GET /api/v1/traffic/policies", Summary: "List the tenant's traffic policies, newest first",
	}
	GetTrafficPolicy = Op[NameRef, TrafficPolicy]{
		Service: "tcagent", Verb: "policy-get", Permission: TrafficRead,
		Route: "GET /api/v1/traffic/policies/{name}", Summary: "Show a traffic policy and how far it has come; by name or id",
	}
	ApplyTrafficPolicy = Op[ApplyTrafficPolicyRequest, TrafficPolicy]{
		Service: "tcagent", Verb: "policy-apply", Permission: TrafficWrite,
		Route: "PUT /api/v1/traffic/policies/{name}", Summary: "Create or replace a traffic policy",
	}
	DeleteTrafficPolicy = Op[NameRef, None]{
		Service: "tcagent", Verb: "policy-delete", Permission: TrafficWrite,
		Route: "DELETE /api/v1/traffic/policies/{name}", Status: 204, Summary: "Delete a traffic policy",
	}
	TrafficPolicyHistory = Op[TrafficHistoryRequest, Page[Change[TrafficPolicy]]]{
		Service: "tcagent", Verb: "policy-history", Permission: TrafficRead,
		Route: "GET /api/v1/traffic/policies/{name}/history", Summary: "List every change of a traffic policy, oldest first",
	}
	PlanTrafficPolicy = Op[PlanTrafficPolicyRequest, TrafficPreview]{
		Service: "tcagent", Verb: "policy-plan", Permission: TrafficWrite,
		Route: "POST /api/v1/traffic/policies:plan", Summary: "Say what a traffic policy would change, and change nothing",
	}
	EffectiveTraffic = Op[EffectiveTrafficRequest, TrafficEffective]{
		Service: "tcagent", Verb: "effective", Permission: TrafficRead,
		Route: "GET /api/v1/traffic/policies/effective", Summary: "Show what holds for a session, and which policy says so",
	}
	ListTrafficNodes = Op[List, Page[TrafficNode]]{
		Service: "tcagent", Verb: "node-list", Permission: TrafficRead,
		Route: "GET /api/v1/traffic/nodes", Summary: "List nodes; for the operator's tenant",
	}
	GetTrafficSession = Op[SessionRef, TrafficSession]{
		Service: "tcagent", Verb: "session-get", Permission: TrafficRead,
		Route: "GET /api/v1/traffic/sessions/{id}", Summary: "Show a session's plan: intended, and applied",
	}
	CreateTrafficFault = Op[CreateTrafficFaultRequest, TrafficFault]{
		Service: "tcagent", Verb: "fault-create", Permission: TrafficWrite,
		Route: "POST /api/v1/traffic/faults", Status: 201, Summary: "Make a session's network worse for a while, for a test; it ends by itself",
	}
	ListTrafficFaults = Op[List, Page[TrafficFault]]{
		Service: "tcagent", Verb: "fault-list", Permission: TrafficRead,
		Route: "GET /api/v1/traffic/faults", Summary: "List the faults of the tenant's sessions that have not ended",
	}
	DeleteTrafficFault = Op[TrafficFaultRef, None]{
		Service: "tcagent", Verb: "fault-delete", Permission: TrafficWrite,
		Route: "DELETE /api/v1/traffic/faults/{session}", Status: 204, Summary: "End a session's fault now",
	}
)

// CreateTrafficPolicyRequest creates a policy whose name is free.
type CreateTrafficPolicyRequest struct {
	TrafficSpec
}

// ApplyTrafficPolicyRequest makes the policy that Name in the path names what Policy is.
type ApplyTrafficPolicyRequest struct {
	Name    string      `json:"name" in:"path"`
	IfMatch uint64      `json:"if_match,omitempty" in:"header:If-Match"`
	Policy  TrafficSpec `json:"policy" in:"body"` // the whole HTTP body
}

// TrafficHistoryRequest pages through the changes of one policy.
type TrafficHistoryRequest struct {
	Name string `json:"name" in:"path"`
	List
}

// PlanTrafficPolicyRequest asks what applying the policy would do; with Delete, what removing the one of its name would.
type PlanTrafficPolicyRequest struct {
	Delete bool `json:"delete,omitempty" in:"query"`
	TrafficSpec
}

// CreateTrafficFaultRequest puts a fault on a session's traffic, in place of the one that it has.
type CreateTrafficFaultRequest struct {
	Session string   `json:"session"`
	For     Duration `json:"for" doc:"From 1s to 1h."`
	TrafficFaultSpec
}

// TrafficFaultRef names a fault by its session.
type TrafficFaultRef struct {
	Session string `json:"session" in:"path"`
}

// EffectiveTrafficRequest names a session.
type EffectiveTrafficRequest struct {
	Session string `json:"session" in:"query"`
}
