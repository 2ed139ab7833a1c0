package bus

import (
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"agentyard.dev/libs/api"
)

// Streams that are not ledgers of one service.
const (
	logStream   = "LOG"
	leaseStream = "LEASES"
	blobStream  = "BLOBS"
	blobPrefix  = api.LedgerPrefix + "blobs." // + <tenant>.<owner>.<blob>
	leaseNoun   = "leases"
	// leaseLive is where changes of leases are republished, so that a released lease is
	// taken at once.
	leaseLive = "yard.v1.live.leases."
)

// ownedNouns are the ledgers that each service writes.
var ownedNouns = map[string][]string{
	"gateway":   {"idempotency", "tickets"},
	"auth":      {"tenants", "users", "keys", "audit", "jwks", "revoked", "signers", "lastused"},
	"sessions":  {"sessions", "profiles", "secrets", "credentials"},
	"scheduler": {"tasks", "schedules", "queues", "webhooks", "deliveries", "noticed"},
	"tcagent":   {"policies", api.NounPlans, api.NounNodes},
}

// privateNouns are read by their owner only, not even by the gateway.
var privateNouns = []string{"signers", "secrets", "credentials", "webhooks", "noticed"}

// readNouns are the ledgers that a service reads and another owns. What verifies access tokens
// needs jwks and revoked; quotas need tenants and users.
var readNouns = map[string][]string{
	"auth":      {},
	"sessions":  {"jwks", "revoked", "tenants", "users"},
	"scheduler": {"jwks", "revoked", "tenants", "users", "sessions", "profiles"},
	"tcagent":   {"jwks", "revoked", "tenants", "sessions", "profiles"},
}

// askedServices are the services whose operations a service may request.
var askedServices = map[string][]string{
	"sessions":  {"auth"},
	"scheduler": {"sessions"},
	"tcagent":   {"auth"},
}

// peerOps are the operations that one service alone may ask another (api.PeerPrefix): "<service>.<verb>".
var peerOps = map[string][]string{
	"scheduler": {"auth.act-as", "auth.record-act"},
	"sessions":  {"auth.record-act"},
}

// Limits of a session's connection. Its runner holds a handful of subscriptions.
const (
	sessionMaxSubs    = 16
	sessionMaxPayload = 2 << 20 // an event carries at most 1 MiB of content, escaped
)

// Limits of a pod that has no session yet: it asks one thing.
const (
	podMaxSubs    = 2
	podMaxPayload = 4 << 10
)

// A service answers a request within this time or not at all (the longest operation waits
// 120 s), and with at most this many messages.
const (
	replyWithin = 5 * time.Minute
	replyCount  = 1
)

// serviceInbox is the prefix of the subjects on which a service receives replies. A session's
// prefix (sessionInbox) cannot become one, whatever the session is called.
func serviceInbox(service string) string { return "_INBOX." + service }

func sessionInbox(session string) string { return "_INBOX_" + session }

// streamName returns the stream of the ledger of noun.
func streamName(noun string) string { return strings.ToUpper(noun) }

// grants collects the subjects of one credential.
type grants struct{ pub, sub []string }

// read allows following and reading one stream.
func (g *grants) read(stream string) {
	g.pub = append(g.pub,
		"$JS.API.STREAM.INFO."+stream,
		"$JS.API.CONSUMER.CREATE."+stream+".>",
		"$JS.API.CONSUMER.INFO."+stream+".*",
		"$JS.API.CONSUMER.DELETE."+stream+".*",
		"$JS.API.CONSUMER.MSG.NEXT."+stream+".*",
		"$JS.FC."+stream+".>",
		// Nothing is acknowledged. But a server remembers for replyWithin the reply subject of each message that it delivers to a connection that may not publish
		// there, and goes through all that it remembers every few thousand messages: the more a view has heard, the dearer each message would be.
		"$JS.ACK."+stream+".>", "$JS.ACK.*.*."+stream+".>",
	)
	g.get(stream)
}

// get allows direct gets of one stream.
func (g *grants) get(stream string) {
	g.pub = append(g.pub, "$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+".>")
}

// own allows making, configuring and purging one stream.
func (g *grants) own(stream string) {
	g.pub = append(g.pub,
		"$JS.API.STREAM.CREATE."+stream,
		"$JS.API.STREAM.UPDATE."+stream,
		"$JS.API.STREAM.PURGE."+stream,
	)
}

func servicePermissions(service string) jwt.Permissions {
	var g grants
	g.pub = append(g.pub, "$JS.API.INFO")
	g.sub = append(g.sub, serviceInbox(service)+".>", api.OpPrefix+service+".*")

	for _, noun := range ownedNouns[service] {
		g.own(streamName(noun))
		g.read(streamName(noun))
		g.pub = append(g.pub, api.LedgerPrefix+noun+".*.*")
	}
	for _, noun := range readNouns[service] {
		g.read(streamName(noun))
	}
	for _, other := range askedServices[service] {
		g.pub = append(g.pub, api.OpPrefix+other+".*")
	}

	for _, op := range peerOps[service] {
		g.pub = append(g.pub, api.PeerPrefix+service+"."+op)
	}
	g.sub = append(g.sub, api.PeerPrefix+"*."+service+".*")

	// Leases: each service competes under its own name only.
	own := api.LedgerPrefix + leaseNoun + "." + service
	g.pub = append(g.pub,
		"$JS.API.STREAM.CREATE."+leaseStream,
		"$JS.API.STREAM.INFO."+leaseStream,
		"$JS.API.DIRECT.GET."+leaseStream+"."+own+".*",
		own+".*",
	)
	g.sub = append(g.sub, leaseLive+service+".*")
	if service == leaseKeeper {
		g.pub = append(g.pub, "$JS.API.STREAM.UPDATE."+leaseStream)
	}

	switch service {
	case "gateway":
		g.pub = append(g.pub, api.OpPrefix+">")
		g.sub = append(g.sub, api.LivePrefix+">")
		for _, nouns := range ownedNouns {
			for _, noun := range nouns {
				if !slices.Contains(privateNouns, noun) && !slices.Contains(ownedNouns[service], noun) {
					g.read(streamName(noun))
				}
			}
		}
		g.get(logStream)
		g.get(blobStream)
		g.pub = append(g.pub, "$JS.API.STREAM.INFO."+logStream, "$JS.API.STREAM.INFO."+blobStream)
	case "scheduler": // follows the sessions of its tasks, keeps their files
		g.sub = append(g.sub, api.LivePrefix+">")
		g.get(logStream)
		g.pub = append(g.pub, "$JS.API.STREAM.INFO."+logStream)
		g.own(blobStream)
		g.read(blobStream)
		g.pub = append(g.pub, blobPrefix+"*.*.*", api.OpPrefix+api.RecordDenial.Service+"."+api.RecordDenial.Verb)
	case "tcagent": // an agent of the release before this one has this credential, too
		g.sub = append(g.sub, api.LivePlansPrefix+">", api.LiveCountersPrefix+">")
		g.pub = append(g.pub, api.LiveCountersPrefix+"*")
	case "sessions":
		g.sub = append(g.sub, api.RunnerPrefix+">", api.LivePrefix+">")
		g.own(logStream)
		g.read(logStream)
		g.pub = append(g.pub, api.LogSubject("*", "*", api.WriterUser))
	}

	slices.Sort(g.pub)
	slices.Sort(g.sub)
	return jwt.Permissions{
		Pub:  jwt.Permission{Allow: slices.Compact(g.pub)},
		Sub:  jwt.Permission{Allow: slices.Compact(g.sub)},
		Resp: &jwt.ResponsePermission{MaxMsgs: replyCount, Expires: replyWithin},
	}
}

// roleScope is what the credentials that role's signing key signs may do.
func roleScope(role, signingKey string) *jwt.UserScope {
	s := jwt.NewUserScope()
	s.Key = signingKey
	s.Role = role
	s.Template.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard, jwt.ConnectionTypeInProcess)
	if role == podRole {
		s.Template.Pub.Allow.Add(api.RunnerPrefix + api.PodTenant + ".{{name()}}." + api.RunnerBind.Verb)
		s.Template.Sub.Allow.Add("_INBOX_{{name()}}.>")
		s.Template.Subs = podMaxSubs
		s.Template.Payload = podMaxPayload
		return s
	}
	if role == NodeService {
		nodeScope(s)
		return s
	}
	if role != sessionRole {
		s.Template.Permissions = servicePermissions(role)
		return s
	}
	// The tenant is a tag of the credential, and the session its name.
	const tenant, session = "{{tag(tenant)}}", "{{name()}}"
	s.Template.Pub.Allow.Add(
		api.RunnerPrefix+tenant+"."+session+".*",
		api.LogSubject(tenant, session, api.WriterAgent),
	)
	s.Template.Sub.Allow.Add(
		api.LiveSubject(tenant, session, api.WriterUser),
		sessionInbox(session)+".>",
	)
	s.Template.Subs = sessionMaxSubs
	s.Template.Payload = sessionMaxPayload
	return s
}
