package limit

import (
	"context"
	"crypto/sha256"
	_ "embed" // for take.lua
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// callTimeout bounds one call to Redis, connecting included. In one data centre it needs well under a millisecond; a request
	// that meets Redis's death is delayed by this once.
	callTimeout = 50 * time.Millisecond
	// maxKey bounds keys on Redis; a longer one is replaced by its hash.
	maxKey = 200
)

//go:embed take.lua
var takeSource string

// remote limits and caches in Redis. Each method is one round trip and one key, so it works through a proxy or a cluster.
type remote struct {
	client *redis.Client
	take   *redis.Script
	prefix string
}

func newRemote(url, prefix string) (*remote, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		// Without its cause, which quotes the URL and so the password.
		return nil, errors.New("-redis.url is not a URL such as redis://127.0.0.1:6379/0 or unix:///run/redis.sock")
	}
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = callTimeout, callTimeout, callTimeout, callTimeout
	opts.ContextTimeoutEnabled = true
	// A call that failed may have taken its tokens: the caller goes on locally, nobody repeats it.
	opts.MaxRetries, opts.DialerRetries = -1, 1
	opts.PoolSize, opts.MaxActiveConns = 64, 64
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	// The client would print each broken connection to standard error; Store says it once.
	logging.Disable()
	return &remote{client: redis.NewClient(opts), take: redis.NewScript(takeSource), prefix: prefix}, nil
}

func (r *remote) key(kind, key string) string {
	if len(key) > maxKey {
		sum := sha256.Sum256([]byte(key))
		key = "sha256:" + hex.EncodeToString(sum[:])
	}
	return r.prefix + kind + key
}

const (
	bucketKind = "bucket:"
	cacheKind  = "cache:"
)

func (r *remote) takeTokens(ctx context.Context, key string, n int, rate Rate) (Decision, error) {
	if !rate.limits() {
		return unlimited, nil
	}
	n = max(n, 0)
	cost := rate.refill(n)
	if n > rate.burst() {
		cost = 2 * longest // whatever the bucket holds, it is less
	}
	reply, err := r.take.Run(ctx, r.client, []string{r.key(bucketKind, key)},
		strconv.FormatFloat(cost, 'f', -1, 64), strconv.FormatFloat(rate.refill(rate.burst()), 'f', -1, 64)).Slice()
	if err != nil {
		return Decision{}, err
	}
	if len(reply) != 2 {
		return Decision{}, fmt.Errorf("take.lua replied %d values", len(reply))
	}
	allowed, ok1 := reply[0].(int64)
	text, ok2 := reply[1].(string)
	fullIn, err := strconv.ParseFloat(text, 64)
	if !ok1 || !ok2 || err != nil {
		return Decision{}, fmt.Errorf("take.lua replied %v", reply)
	}
	return rate.decide(allowed == 1, n, fullIn), nil
}

func (r *remote) get(ctx context.Context, key string) ([]byte, bool, error) {
	value, err := r.client.Get(ctx, r.key(cacheKind, key)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, false, nil
	}
	return value, err == nil, err
}

func (r *remote) set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return r.client.Set(ctx, r.key(cacheKind, key), value, ttl).Err()
}

func (r *remote) setNX(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error) {
	return r.client.SetNX(ctx, r.key(cacheKind, key), value, ttl).Result()
}

func (r *remote) delete(ctx context.Context, key string) error {
	return r.client.Unlink(ctx, r.key(cacheKind, key)).Err()
}

// change is a write to the cache that Redis has missed: an absent value is a deletion.
type change struct {
	key   string
	value []byte
	left  time.Duration
	set   bool
}

// replay makes changes in one round trip.
func (r *remote) replay(ctx context.Context, changes []change) error {
	_, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, c := range changes {
			if c.set {
				p.Set(ctx, r.key(cacheKind, c.key), c.value, atLeast(c.left))
			} else {
				p.Unlink(ctx, r.key(cacheKind, c.key))
			}
		}
		return nil
	})
	return err
}

// probe tries what the other methods need: a script and a write. A ping would also be answered by a server that is read-only
// or out of memory.
func (r *remote) probe(ctx context.Context) error {
	_, err := r.takeTokens(ctx, "probe", 1, Rate{PerSecond: 1e6, Burst: 1e6})
	return err
}

func (r *remote) close() error { return r.client.Close() }

// atLeast returns ttl, or Redis's smallest: a zero would mean "for ever".
func atLeast(ttl time.Duration) time.Duration { return max(ttl, time.Millisecond) }
