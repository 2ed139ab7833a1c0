package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// TrafficSpec is a traffic policy as a person writes it. Rates ("50Mbit"), sizes ("256KiB") and durations ("10ms") are texts with
// their unit; libs/tc, which has the same vocabulary, says what is valid, and composes and compiles policies. The document is typed here, although the contract
// cannot import libs/tc, so that OpenAPI shows every field and the edge refuses unknown ones.
type TrafficSpec struct {
	Name        string           `json:"name,omitempty" doc:"Unique in the tenant: a–z, 0–9 and '-'."`
	Description string           `json:"description,omitempty"`
	AppliesTo   TrafficAppliesTo `json:"applies_to,omitzero"`
	Mode        string           `json:"mode,omitempty" doc:"enforce (the default), report or off."`
	Priority    int              `json:"priority,omitempty" doc:"Among policies of one tier; the greatest is the most specific."`
	TrafficRules
	Schedule *TrafficSchedule `json:"schedule,omitempty"`
}

// TrafficRules is what a policy demands, always or in one window of its schedule.
type TrafficRules struct {
	Link    TrafficLink    `json:"link,omitzero"`
	Classes []TrafficClass `json:"classes,omitempty" doc:"The first that matches a packet takes it."`
	Limits  TrafficLimits  `json:"limits,omitzero"`
}

// TrafficAppliesTo selects sessions: those that meet all that is set.
type TrafficAppliesTo struct {
	Tenant   string          `json:"tenant,omitempty" doc:"The caller's own, but for admins of the operator's tenant; empty there: every tenant."`
	Users    []string        `json:"users,omitempty" doc:"Ids of owners."`
	Sessions TrafficSelector `json:"sessions,omitzero"`
	Nodes    []string        `json:"nodes,omitempty"`
}

// TrafficSelector is labels that a session must all have.
type TrafficSelector struct {
	MatchLabels map[string]string `json:"match_labels,omitempty"`
}

// TrafficLink is the ceilings of a session's whole traffic.
type TrafficLink struct {
	Upload   TrafficRate `json:"upload,omitzero"`
	Download TrafficRate `json:"download,omitzero"`
}

// TrafficRate is the most that one direction gets.
type TrafficRate struct {
	Ceiling string `json:"ceiling,omitempty" doc:"Layer 2: 50Mbit."`
	Burst   string `json:"burst,omitempty" doc:"256KiB; without, it is sized to the ceiling."`
}

// TrafficClass is one kind of a session's traffic.
type TrafficClass struct {
	Name          string         `json:"name"`
	Guarantee     string         `json:"guarantee,omitempty" doc:"In each direction: 10Mbit."`
	Ceiling       string         `json:"ceiling,omitempty"`
	Priority      int            `json:"priority,omitempty" doc:"0 (first) to 7: who gets first what the guarantees leave."`
	LatencyTarget string         `json:"latency_target,omitempty" doc:"In the class's queue at the guaranteed rate: 10ms."`
	Default       bool           `json:"default,omitempty" doc:"Takes what no class matches; exactly one."`
	Match         []TrafficMatch `json:"match,omitempty" doc:"Any of these."`
}

// TrafficMatch is criteria that a packet must all meet; addresses and ports are the other side's.
type TrafficMatch struct {
	CIDR      string        `json:"cidr,omitempty"`
	Ports     []TrafficWord `json:"ports,omitempty" doc:"443 or 8000-8080; any of these."`
	Protocol  string        `json:"protocol,omitempty" doc:"tcp, udp, sctp, dccp, icmp, icmpv6, esp or gre."`
	DSCP      TrafficWord   `json:"dscp,omitempty" doc:"ef, af41, cs1 or a number."`
	Direction string        `json:"direction,omitempty" doc:"upload or download; empty: both."`
}

// TrafficWord is a text that may be written as a number.
type TrafficWord string

// UnmarshalJSON takes "443" and 443.
func (w *TrafficWord) UnmarshalJSON(data []byte) error {
	var n json.Number
	if err := json.Unmarshal(data, &n); err == nil && len(data) > 0 && data[0] != '"' {
		*w = TrafficWord(n)
		return nil
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("is not a text or a number")
	}
	*w = TrafficWord(s)
	return nil
}

// TrafficLimits bounds packets and connections.
type TrafficLimits struct {
	Upload   TrafficDirectionLimits `json:"upload,omitzero"`
	Download TrafficDirectionLimits `json:"download,omitzero"`
}

// TrafficDirectionLimits bounds one direction; zero is no limit.
type TrafficDirectionLimits struct {
	PacketsPerSecond     uint32 `json:"packets_per_second,omitempty"`
	Connections          uint32 `json:"connections,omitempty" doc:"Open at once."`
	ConnectionsPerSecond uint32 `json:"connections_per_second,omitempty"`
}

// TrafficSchedule makes a policy depend on the wall clock of a place.
type TrafficSchedule struct {
	Timezone string          `json:"timezone" doc:"IANA: Europe/Berlin."`
	Windows  []TrafficWindow `json:"windows" doc:"The first that is open decides."`
	Outside  string          `json:"outside,omitempty" doc:"none (the default): the policy is not there; base: what it says outside its windows."`
}

// TrafficWindow is a time of the week, and what it replaces in the policy.
type TrafficWindow struct {
	Name string   `json:"name,omitempty"`
	Days []string `json:"days,omitempty" doc:"mon, tue, …; empty: every day."`
	From string   `json:"from" doc:"08:30"`
	To   string   `json:"to" doc:"18:00; not later than from: on the next day."`
	Mode string   `json:"mode,omitempty"`
	TrafficRules
}

// TrafficPolicy is a policy that is kept.
type TrafficPolicy struct {
	ID     string `json:"id"`     // p…
	Tenant string `json:"tenant"` // whose admins wrote it
	TrafficSpec
	CreatedAt time.Time      `json:"created_at"`
	Status    *TrafficStatus `json:"status,omitempty" doc:"Of one policy that is shown, not in lists."`
	Rev       uint64         `json:"rev"`
}

// Revision implements Revisioned.
func (p TrafficPolicy) Revision() uint64 { return p.Rev }

// TrafficStatus is how far a policy has come.
type TrafficStatus struct {
	Conditions []TrafficCondition `json:"conditions"`
	Sessions   int                `json:"sessions" doc:"Live ones to which it applies."`
	Nodes      int                `json:"nodes" doc:"On which they run."`
	Behind     []string           `json:"behind,omitempty" doc:"Nodes that have not applied the newest plans of these sessions."`
	ApplyP50MS float64            `json:"apply_p50_ms,omitempty" doc:"What nodes took to apply the plans of these sessions, half of them at most."`
	ApplyP99MS float64            `json:"apply_p99_ms,omitempty"`
}

// TrafficCondition is one aspect of a status: Accepted, Compiled, Programmed, Degraded, Conflicted or Infeasible.
type TrafficCondition struct {
	Type   string `json:"type"`
	Status bool   `json:"status"`
	Reason string `json:"reason,omitempty"`
}

// TrafficEffective is what holds for one session now, and which policy set each value.
type TrafficEffective struct {
	Session     string                 `json:"session"`
	Mode        string                 `json:"mode"`
	Upload      TrafficDirectionValues `json:"upload"`
	Download    TrafficDirectionValues `json:"download"`
	Classes     []TrafficClass         `json:"classes,omitempty"`
	ClassesFrom string                 `json:"classes_from,omitempty"`
	Policies    []TrafficApplied       `json:"policies,omitempty" doc:"All that apply, the most specific first."`
	Conflicts   []string               `json:"conflicts,omitempty"`
	Warnings    []string               `json:"warnings,omitempty"`
	Until       time.Time              `json:"until,omitzero" doc:"When a schedule next changes this."`
}

// TrafficDirectionValues is one direction's part.
type TrafficDirectionValues struct {
	Ceiling              *TrafficValue  `json:"ceiling,omitempty"`
	Now                  string         `json:"now,omitempty" doc:"The ceiling that its node gives it now, while sessions contend for the uplink; absent: its own."`
	Burst                *TrafficValue  `json:"burst,omitempty"`
	PacketsPerSecond     *TrafficNumber `json:"packets_per_second,omitempty"`
	Connections          *TrafficNumber `json:"connections,omitempty"`
	ConnectionsPerSecond *TrafficNumber `json:"connections_per_second,omitempty"`
}

// TrafficValue is a rate or size and the policy that set it.
type TrafficValue struct {
	Value string `json:"value"`
	From  string `json:"from"`
}

// TrafficNumber is a number and the policy that set it.
type TrafficNumber struct {
	Value uint32 `json:"value"`
	From  string `json:"from"`
}

// TrafficApplied is a policy that selects a session.
type TrafficApplied struct {
	Name   string `json:"name"`
	Tier   string `json:"tier" doc:"annotation, platform, tenant, user or session."`
	Mode   string `json:"mode"`
	Window string `json:"window,omitempty"`
	Idle   string `json:"idle,omitempty" doc:"Why it has no part now."`
}

// TrafficPreview is what a policy would change: nothing was written.
type TrafficPreview struct {
	Policy   TrafficPolicy   `json:"policy" doc:"As it would be kept."`
	Verb     string          `json:"verb" doc:"create, update or delete."`
	Sessions int             `json:"sessions" doc:"Live ones whose traffic would change."`
	Nodes    []string        `json:"nodes,omitempty" doc:"On which they run."`
	Effects  []TrafficEffect `json:"effects,omitempty" doc:"Of the first 100 of these sessions."`
	Warnings []string        `json:"warnings,omitempty" doc:"Conflicts, capacity, and what nodes cannot do."`
}

// TrafficEffect is what changes for one session.
type TrafficEffect struct {
	Session string          `json:"session"`
	Node    string          `json:"node,omitempty"`
	Changes []TrafficChange `json:"changes"`
}

// TrafficChange is one value before and after; empty: none.
type TrafficChange struct {
	Field  string `json:"field"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// TrafficNode is a node as its agent reported it.
type TrafficNode struct {
	Name         string    `json:"name"`
	Agent        string    `json:"agent,omitempty" doc:"The agent's version; empty: none has reported."`
	ReportedAt   time.Time `json:"reported_at,omitzero"`
	Capabilities []string  `json:"capabilities,omitempty"`
	Uplink       string    `json:"uplink,omitempty" doc:"10Gbit; empty: unknown."`
	Guaranteed   string    `json:"guaranteed" doc:"The greater sum of the guarantees of its sessions in one direction."`
	Sessions     int       `json:"sessions"`
	Behind       int       `json:"behind" doc:"Plans that are not applied as intended."`
}

// TrafficSession is one session's plan: what is intended, and what its node has applied.
type TrafficSession struct {
	Session   string              `json:"session"`
	Node      string              `json:"node,omitempty"`
	Intended  *TrafficPlan        `json:"intended,omitempty" doc:"Absent: no agent has reported for the node."`
	Applied   *TrafficPlanApplied `json:"applied,omitempty" doc:"Absent: nothing yet."`
	Effective TrafficEffective    `json:"effective"`
	Counters  *TrafficCounts      `json:"counters,omitempty" doc:"Live; absent: its node has not said anything for a while."`
}

// TrafficCounts is what the kernel counted of a session since each class was made, and the rates of the last seconds.
type TrafficCounts struct {
	At       time.Time           `json:"at"`
	Download []TrafficClassCount `json:"download,omitempty"`
	Upload   []TrafficClassCount `json:"upload,omitempty"`
	Limits   []TrafficLimitCount `json:"limits,omitempty" doc:"Caught by limits of packets and connections; some seconds old."`
}

// TrafficClassCount is one class's in one direction.
type TrafficClassCount struct {
	Class    string `json:"class"`
	Bytes    uint64 `json:"bytes"`
	Packets  uint64 `json:"packets"`
	Drops    uint64 `json:"drops"`
	Backlog  uint64 `json:"backlog" doc:"Bytes that wait."`
	Borrowed uint64 `json:"borrowed" doc:"Packets that were sent with what other classes left."`
	Rate     string `json:"rate" doc:"Of the last second or two: 12.3Mbit."`
}

// TrafficPlan names one plan.
type TrafficPlan struct {
	Rev      uint64   `json:"rev"`
	Hash     string   `json:"hash"`
	Mode     string   `json:"mode"`
	Degraded []string `json:"degraded,omitempty" doc:"What the node cannot do."`
	Commands []string `json:"commands,omitempty" doc:"What tc and nft would be told, with $HOST, $IFB and $PEER for the session's devices."`
}

// TrafficPlanApplied is what a node's agent says of a session's plan.
type TrafficPlanApplied struct {
	Rev    uint64    `json:"rev"`
	Hash   string    `json:"hash"`
	State  string    `json:"state" doc:"applied, failed (nothing of ours is in force), kept (an older plan is), or off (nothing can be: the detail says why)."`
	Detail string    `json:"detail,omitempty"`
	At     time.Time `json:"at"`
	TookMS float64   `json:"took_ms,omitempty"`
	Fault  string    `json:"fault,omitempty" doc:"Of a session with a fault: in force, or which part of it is not, and why."`
}

// TrafficPlanRecord is one session's plan as the ledger PLANS keeps it, under the node's token (TrafficNodeToken) and the session's id. A node agent follows
// its own node's plans on LivePlansPrefix; a deleted entry says that the session is gone.
type TrafficPlanRecord struct {
	Node    string          `json:"node"`
	Tenant  string          `json:"tenant"`
	Session string          `json:"session"`
	Hash    string          `json:"hash"`
	Plan    json.RawMessage `json:"plan"` // libs/tc.Plan
	// Address is the session's own IP address, as its endpoint has it, by which the agent finds its network namespace; empty: the session
	// has no network of its own, or it is not known yet.
	Address string `json:"address,omitempty"`
	// Fault is what is done to the session's traffic on purpose, until it ends; no part of Hash.
	Fault *TrafficFaultRecord `json:"fault,omitempty"`
	// Group, if any, is the id of an entry under SharedPlans, which is the plan of this session and of others, but for the session's id, if it is newer than this entry.
	// Only sessions of agents that follow such entries have one (TrafficNodeRecord.Shares).
	Group string `json:"group,omitempty"`
}

// TrafficLinkAlias begins the alias (IFLA_IFALIAS) of a veth that a runtime made for a session; a file of the session's network namespace follows. One
// that its maker left down is set up by the node agent when the session's plan is in force.
const TrafficLinkAlias = "agentyard:"

// TrafficFaultSpec is what a fault does to a session's traffic: texts with their units, which libs/tc judges.
type TrafficFaultSpec struct {
	Direction string `json:"direction,omitempty" doc:"upload or download; empty: both."`
	Delay     string `json:"delay,omitempty" doc:"Each packet is late by this: 100ms."`
	Jitter    string `json:"jitter,omitempty" doc:"And by as much more or less: 20ms."`
	Loss      string `json:"loss,omitempty" doc:"Of packets, they do not arrive: 1%."`
	Duplicate string `json:"duplicate,omitempty" doc:"Of packets, they arrive twice: 0.5%."`
	Rate      string `json:"rate,omitempty" doc:"The direction has no more: 1Mbit."`
}

// TrafficFaultRecord is a fault as it travels to its node.
type TrafficFaultRecord struct {
	TrafficFaultSpec
	By    string    `json:"by"` // whose
	At    time.Time `json:"at"`
	Until time.Time `json:"until"` // the node's kernel ends it then by itself
}

// TrafficFault is a session's fault, of which it has one at a time.
type TrafficFault struct {
	Session string `json:"session"`
	TrafficFaultSpec
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Until time.Time `json:"until" doc:"It ends then, whatever happens to those that made it."`
	State string    `json:"state" doc:"waiting (the node has not said anything of it), in force, or which part of it is not, and why."`
}

// TrafficNodeRecord is a node as its agent reports it, in the ledger NODES under HomeTenant and the node's token.
type TrafficNodeRecord struct {
	Name         string                        `json:"name"`
	Agent        string                        `json:"agent"`
	ReportedAt   time.Time                     `json:"reported_at"`
	Capabilities json.RawMessage               `json:"capabilities"`      // libs/tc.Capabilities
	Uplink       string                        `json:"uplink,omitempty"`  // "10Gbit"; empty: unknown
	Applied      map[string]TrafficPlanApplied `json:"applied,omitempty"` // by session
	// Shares is that the agent follows plans that sessions share (TrafficPlanRecord.Group).
	Shares bool `json:"shares,omitempty"`
}

// NounPlans and NounNodes are the ledgers between the traffic controller and node agents.
const (
	NounPlans = "plans"
	NounNodes = "nodes"
	// SharedPlans stands in place of a node's token in the keys of plans that many sessions share; no node's token begins so.
	SharedPlans = "_shared"
	// LivePlansPrefix + <node token>.<session> is where new entries of PLANS appear.
	LivePlansPrefix = "yard.v1.live.plans."
	// LiveCountersPrefix + <node token> is where a node's agent publishes its TrafficCounters each second; nothing keeps them.
	LiveCountersPrefix = "yard.v1.live.counters."
)

// TrafficCounters is what a node's kernel counted since each class was made. It holds the sessions whose counters changed since the last
// one, and every session now and then; many sessions take several.
type TrafficCounters struct {
	Node     string                   `json:"node"`
	At       time.Time                `json:"at"`
	Sessions []TrafficSessionCounters `json:"sessions,omitempty"`
	// Applied, if any, is what has become of shared plans just now, by session: the node's entry in NODES says it some seconds later.
	Applied map[string]TrafficPlanApplied `json:"applied,omitempty"`
}

// TrafficSessionCounters is one session's, by class.
type TrafficSessionCounters struct {
	Session  string                 `json:"s"`
	Download []TrafficClassCounters `json:"d,omitempty"`
	Upload   []TrafficClassCounters `json:"u,omitempty"`
	// DownloadNow and UploadNow are what its node gives it now, in bits per second, while that is less than its ceilings: sessions contend for the uplink.
	DownloadNow uint64 `json:"dn,omitempty"`
	UploadNow   uint64 `json:"un,omitempty"`
	// Limits are what its limits of packets and connections have caught, of the last ten seconds or so.
	Limits []TrafficLimitCount `json:"l,omitempty"`
}

// TrafficLimitCount is what a limit has caught since it was put: dropped or, in mode report, would have.
type TrafficLimitCount struct {
	Limit     string `json:"limit" doc:"packet_rate, connections or connection_rate."`
	Direction string `json:"direction"`
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
}

// TrafficClassCounters is one class's in one direction.
type TrafficClassCounters struct {
	Class    string `json:"c"`
	Bytes    uint64 `json:"b"`
	Packets  uint64 `json:"p"`
	Drops    uint64 `json:"x,omitempty"`
	Backlog  uint64 `json:"q,omitempty"` // bytes that wait
	Borrowed uint64 `json:"l,omitempty"` // packets sent with what other classes left
}

// TrafficNodeToken is a node's name as a subject token. Names of nodes are DNS names, which have no '_'.
func TrafficNodeToken(node string) string {
	if node == "" {
		return "local"
	}
	return strings.ReplaceAll(strings.ToLower(node), ".", "_")
}
