package rpc

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"sync"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/go-kit/kit/endpoint"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/token"
)

const (
	defaultCallTimeout = 10 * time.Second
	// breakerFailures timeouts in a row open a service's breaker; after breakerOpen one call tries again. Short, because a
	// service that was restarted is back within a second.
	breakerFailures = 5
	breakerOpen     = time.Second
)

// Client asks operations of other services.
type Client struct {
	nc       *nats.Conn
	cfg      ClientConfig
	seconds  *prometheus.HistogramVec
	endpoint endpoint.Endpoint // takes an *ask, returns an answer
	breakers sync.Map          // service → *gobreaker.CircuitBreaker[any]
	open     time.Duration     // how long a breaker stays open
	silence  time.Duration     // after which what may be asked again is asked again
	asks     int               // how often at most
	repeats  chan struct{}     // a place for each question that was asked again and has no answer yet
	waits    chan struct{}     // likewise, of questions that wait for something to happen
}

// ClientConfig says how a client asks.
type ClientConfig struct {
	Name    string                // of the asking service, for metrics and traces
	Metrics prometheus.Registerer // nil: none
	Timeout time.Duration         // when ctx has no deadline; zero: 10 s
}

// NewClient returns a client on c.
func NewClient(c *bus.Conn, cfg ClientConfig) *Client { return newClient(c.NATS(), cfg) }

func newClient(nc *nats.Conn, cfg ClientConfig) *Client {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultCallTimeout
	}
	c := &Client{
		nc: nc, cfg: cfg, seconds: callSeconds(cfg.Metrics), open: breakerOpen,
		silence: repeatAfter, asks: maxAsks, repeats: make(chan struct{}, maxRepeating), waits: make(chan struct{}, maxWaits),
	}
	c.endpoint = endpoint.Chain(c.observe, c.breaker, c.timeout, c.repeat)(c.send)
	return c
}

// Call asks op and waits for its answer. The raw token of ctx (token.Raw) travels with it. A missing service is
// unavailable at once (NATS no responders). A service that let several calls time out in a row is unavailable at once for a second.
// What may be asked twice (repeat.go) is asked of another instance when one is silent; everything else is asked once.
func Call[Req, Resp any](ctx context.Context, c *Client, op api.Op[Req, Resp], req Req) (Resp, error) {
	return callOn[Req, Resp](ctx, c, op.Info(), opSubject(op.Service, op.Verb), req)
}

// CallAsSession asks a SessionScoped op on the session's own subject (the runner).
func CallAsSession[Req, Resp any](ctx context.Context, c *Client, tenant, session string, op api.Op[Req, Resp], req Req) (Resp, error) {
	if !api.ValidName(tenant) || !api.ValidID(api.KindSession, session) {
		var none Resp
		return none, api.Errorf(api.CodeInvalid, "%q is not a session of a tenant", tenant+"/"+session)
	}
	return callOn[Req, Resp](ctx, c, op.Info(), api.RunnerPrefix+tenant+"."+session+"."+op.Verb, req)
}

// CallAsService asks a ServiceScoped op as the service of the client's name.
func CallAsService[Req, Resp any](ctx context.Context, c *Client, op api.Op[Req, Resp], req Req) (Resp, error) {
	return callOn[Req, Resp](ctx, c, op.Info(), api.PeerPrefix+c.cfg.Name+"."+op.Service+"."+op.Verb, req)
}

func opSubject(service, verb string) string { return api.OpPrefix + service + "." + verb }

func callOn[Req, Resp any](ctx context.Context, c *Client, info api.OpInfo, subject string, req Req) (Resp, error) {
	var resp Resp
	data, err := json.Marshal(&req)
	if err != nil {
		return resp, api.Errorf(api.CodeInternal, "encode the request of %s: %w", info.Name(), err)
	}
	out, err := c.ask(ctx, &ask{info: info, subject: subject, data: data, repeatable: repeatable(info, reflect.ValueOf(&req).Elem())})
	if err != nil {
		return resp, err
	}
	if err := json.Unmarshal(out.data, &resp); err != nil {
		return resp, api.Errorf(api.CodeInternal, "decode the answer of %s: %w", info.Name(), err)
	}
	return resp, nil
}

// ask is one call on its way through the middleware.
type ask struct {
	info    api.OpInfo
	subject string
	data    []byte
	// repeatable says that asking it again is as asking it once.
	repeatable bool
}

func (c *Client) ask(ctx context.Context, a *ask) (answer, error) {
	out, err := c.endpoint(ctx, a)
	if err != nil {
		return answer{}, err
	}
	return out.(answer), nil
}

// observe measures the call and gives it a span.
func (c *Client) observe(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		a, start := request.(*ask), time.Now()
		ctx, span := tracer().Start(ctx, a.info.Name(), asClient)
		defer span.End()
		out, err := next(ctx, request)
		code := "ok"
		if err != nil {
			code = string(api.CodeOf(err))
			span.SetStatus(codes.Error, code)
		}
		c.seconds.WithLabelValues(c.cfg.Name, a.info.Service, a.info.Verb, code).Observe(time.Since(start).Seconds())
		return out, err
	}
}

// breaker fails fast while a service does not answer.
func (c *Client) breaker(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		service := request.(*ask).info.Service
		out, err := c.breakerOf(service).Execute(func() (any, error) { return next(ctx, request) })
		if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
			return nil, &api.Error{
				Code: api.CodeUnavailable, RetryAfter: c.open, Cause: err,
				Detail: "the " + service + " service does not answer; try again in a moment",
			}
		}
		return out, err
	}
}

func (c *Client) breakerOf(service string) *gobreaker.CircuitBreaker[any] {
	if b, ok := c.breakers.Load(service); ok {
		return b.(*gobreaker.CircuitBreaker[any])
	}
	b, _ := c.breakers.LoadOrStore(service, gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name: service, Timeout: c.open,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= breakerFailures },
		IsSuccessful: func(err error) bool { return !errors.Is(err, errSilent) },
		// A caller that went away says nothing about the service, and "no responders" is as fast as a breaker.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, nats.ErrNoResponders) },
	}))
	return b.(*gobreaker.CircuitBreaker[any])
}

// errSilent marks a call that got no answer at all. An answer, even unavailable, shows that the service lives: what is away is behind it,
// and perhaps of one session only.
var errSilent = errors.New("no answer")

// timeout gives the call a deadline if it has none.
func (c *Client) timeout(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.cfg.Timeout)
			defer cancel()
		}
		return next(ctx, request)
	}
}

// send is the innermost endpoint: one request on the connection's shared inbox.
func (c *Client) send(ctx context.Context, request any) (any, error) {
	a := request.(*ask)
	h := nats.Header{}
	if raw := token.Raw(ctx); raw != "" {
		h[headerAuthorization] = []string{"Bearer " + raw}
	}
	if t, ok := ctx.Deadline(); ok {
		h[headerDeadline] = []string{strconv.FormatInt(t.UnixMilli(), 10)}
	}
	if id := RequestID(ctx); id != "" {
		h[headerRequestID] = []string{id}
	}
	otel.GetTextMapPropagator().Inject(ctx, carrier(h))
	msg, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: a.subject, Header: h, Data: a.data})
	if err != nil {
		return nil, c.unsent(a, err)
	}
	out, err := readReply(msg.Header, msg.Data)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// unsent says why a request got no answer.
func (c *Client) unsent(a *ask, err error) error {
	service := a.info.Service
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return &api.Error{Code: api.CodeUnavailable, Detail: "the " + service + " service is not reachable; try again", Cause: err}
	case errors.Is(err, nats.ErrMaxPayload):
		return &api.Error{Code: api.CodeInvalid, Detail: "the request is larger than " + strconv.FormatInt(c.nc.MaxPayload(), 10) + " bytes", Cause: err}
	case errors.Is(err, context.Canceled):
		return &api.Error{Code: api.CodeUnavailable, Detail: "the request was cancelled", Cause: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Code: api.CodeUnavailable, Detail: "the " + service + " service did not answer in time; try again", Cause: errors.Join(errSilent, err)}
	}
	return &api.Error{Code: api.CodeUnavailable, Detail: "the bus is not reachable; try again", Cause: errors.Join(errSilent, err)}
}
