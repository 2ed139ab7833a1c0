package trust

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

const (
	// actsEvery is how long equal acts are gathered: a sweep of hundreds is one record.
	actsEvery = time.Second
	// maxActs bounds the different acts that wait to be told, and actObjects the objects that one record names.
	maxActs    = 1024
	actObjects = 8
)

// Acts tells auth what this service has done by itself, for the audit log:
//
//	acts := trust.NewActs(client, logger)
//	d.Add("acts", acts.Run)
//
// Acts of a moment that differ in their objects only become one record. What auth does not take waits until it does; what is more than can
// wait is dropped and counted in the log.
type Acts struct {
	client *rpc.Client
	logger *slog.Logger

	mu      sync.Mutex
	waiting map[act]*objects
	dropped int
}

type act struct{ tenant, action, detail string }

// objects are what an act was done to: how many, and the first of them by name.
type objects struct {
	named []string
	count int
}

// NewActs returns a teller that asks through client, which has the service's name.
func NewActs(client *rpc.Client, logger *slog.Logger) *Acts {
	return &Acts{client: client, logger: logger, waiting: map[act]*objects{}}
}

// Did tells that object of tenant was acted upon, and why. Action is the service's name, a dot and a verb. It never blocks.
func (a *Acts) Did(tenant, action, object, detail string) {
	a.add(act{tenant, action, detail}, objects{named: []string{object}, count: 1})
}

func (a *Acts) add(key act, o objects) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waiting[key]
	if w == nil {
		if len(a.waiting) >= maxActs {
			a.dropped += o.count
			return
		}
		w = &objects{}
		a.waiting[key] = w
	}
	w.count += o.count
	w.named = append(w.named, o.named[:min(len(o.named), actObjects-len(w.named))]...)
}

// Run tells until ctx ends, and then what is left.
func (a *Acts) Run(ctx context.Context) error {
	tick := time.NewTicker(actsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.tell(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			a.tell(ctx)
		}
	}
}

// tell records what waits. After one failure the others are left for the next time: auth is away.
func (a *Acts) tell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, denialTimeout)
	defer cancel()
	a.mu.Lock()
	waiting, dropped := a.waiting, a.dropped
	a.waiting, a.dropped = map[act]*objects{}, 0
	a.mu.Unlock()
	if dropped > 0 {
		a.logger.WarnContext(ctx, "acts were too many to record", "count", dropped)
	}
	away := false
	for key, o := range waiting {
		if away {
			a.add(key, *o)
			continue
		}
		_, err := rpc.CallAsService(ctx, a.client, api.RecordAct, request(key, *o))
		if err == nil {
			continue
		}
		away = api.CodeOf(err) != api.CodeInvalid
		a.logger.WarnContext(ctx, "act not recorded", "op", key.action, "code", api.CodeOf(err), "err", err)
		if away {
			a.add(key, *o)
		}
	}
}

func request(key act, o objects) api.RecordActRequest {
	req := api.RecordActRequest{Tenant: key.tenant, Action: key.action, Detail: key.detail}
	if o.count == 1 {
		req.Object = o.named[0]
		return req
	}
	req.Detail += ": " + strings.Join(o.named, ", ")
	if more := o.count - len(o.named); more > 0 {
		req.Detail += " and " + strconv.Itoa(more) + " more"
	}
	return req
}
