package bus

import (
	"fmt"

	"github.com/nats-io/jwt/v2"

	"agentyard.dev/libs/api"
)

const (
	// NodeService is the role of node agents. It is apart from the traffic controller's ("tcagent"), so that who takes a node cannot
	// say what other nodes shall do.
	NodeService = "tcnode"
	// AnyNode in place of a node's token makes a credential for all nodes, for agents that are given one and the same Secret.
	AnyNode = "*"
	// nodeTag begins the tag that only a node agent's credential has.
	nodeTag = "node:"
)

// Limits of a node agent's connection. It follows its plans and those that it shares, and reads a few answers at a time.
const (
	nodeMaxSubs    = 2 * maxOthers
	nodeMaxPayload = 2 << 20 // the report of a node with thousands of sessions
)

// NodeCredentials mints the credentials of the agent of one node, which is named by its token (api.TrafficNodeToken), or of AnyNode. It
// fails with invalid.
func (k *Keyring) NodeCredentials(token string) ([]byte, error) {
	if token != AnyNode {
		if err := checkToken("node", token); err != nil {
			return nil, err
		}
		if token != api.TrafficNodeToken(token) { // tags are lower-case
			return nil, api.Invalid("/node", "%q is no node's token", token)
		}
	}
	creds, err := mint(k.roles[NodeService], k.accountID, NodeService, nodeTag+token)
	if err != nil {
		return nil, fmt.Errorf("mint credentials of node %s: %w", token, err)
	}
	return creds, nil
}

// nodeInbox is the prefix of the subjects on which a node's agent receives replies.
func nodeInbox(token string) string {
	if token == AnyNode {
		token = "_" // no node's
	}
	return serviceInbox(NodeService) + "." + token
}

// nodeScope is what a node agent may do: follow its own plans and those that nodes share, read the ledger that they are in, write its own entry of NODES, and publish
// its own counters. NATS grants batched reads of a stream as a whole, so that an agent can read other nodes' plans; write it cannot any.
func nodeScope(s *jwt.UserScope) {
	const node = "{{tag(node)}}"
	own := api.LedgerPrefix + api.NounNodes + "." + api.HomeTenant + "." + node
	direct := func(noun, subject string) string { return directPrefix + streamName(noun) + "." + subject }
	s.Template.Pub.Allow.Add(
		"$JS.API.INFO",
		directPrefix+streamName(api.NounPlans),
		direct(api.NounPlans, api.LedgerPrefix+api.NounPlans+"."+node+".*"),
		direct(api.NounNodes, own),
		own,
		api.LiveCountersPrefix+node,
	)
	s.Template.Sub.Allow.Add(
		api.LivePlansPrefix+node+".*",
		api.LivePlansPrefix+api.SharedPlans+".*",
		serviceInbox(NodeService)+"."+node+".>",
	)
	s.Template.Subs = nodeMaxSubs
	s.Template.Payload = nodeMaxPayload
}
