package gateway

import (
	"flag"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"agentyard.dev/libs/limit"
)

// Config is the gateway's configuration. The zero value of a field means its default.
type Config struct {
	Listen        string // address of the API, "127.0.0.1:8080"
	PreviewListen string // address that serves port previews and nothing else; empty: none
	PublicURL     string // as clients see it; empty: http and the listener's address

	AllowedHosts   []string // further Host names; "*" allows any, which gives up the defence against DNS rebinding
	AllowedOrigins []string // origins of other sites whose pages may use the API (CORS); empty: none
	TrustedProxies []string // networks whose X-Forwarded-For is believed

	PrincipalRate limit.Rate // of one principal's requests
	AddressRate   limit.Rate // of one address's requests, before authentication

	MaxBody   int64 // bytes of an ordinary request's body
	MaxUpload int64 // bytes of a file or of a request to a session

	// WriteTimeout is how long one write to a client may take. A stream whose client reads
	// slower than this is closed; it resumes by its last event id.
	WriteTimeout time.Duration
	// MaxSubscriptions bounds the sessions that one WebSocket follows.
	MaxSubscriptions int
	// MaxStreams bounds the open streams of one principal.
	MaxStreams int
	// TraceContext says what becomes of the traceparent of an authenticated request: "ignore", "join" or "obey".
	TraceContext string
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Listen:           "127.0.0.1:8080",
		PrincipalRate:    limit.Rate{PerSecond: 500, Burst: 1000},
		AddressRate:      limit.Rate{PerSecond: 2000, Burst: 4000},
		MaxBody:          3 << 19, // 1.5 MiB: a message of 1 MiB with its attachments in base64
		MaxUpload:        64 << 20,
		WriteTimeout:     10 * time.Second,
		MaxSubscriptions: 10_000,
		MaxStreams:       5_000,
		TraceContext:     traceJoin,
	}
}

// Register adds the flags of c to fs with c's current values as defaults.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.StringVar(&c.Listen, "gateway.listen", c.Listen, "address of the HTTP API")
	fs.StringVar(&c.PreviewListen, "gateway.preview-listen", c.PreviewListen, "address that serves port previews only, apart from the API; empty: previews are on the API's address alone")
	fs.StringVar(&c.PublicURL, "gateway.public-url", c.PublicURL, "URL under which clients reach the gateway; empty: http and the listen address")
	fs.Func("gateway.allowed-hosts", "further host names to answer to, comma-separated; loopback names, IP addresses and the public URL's are always allowed; * allows any", list(&c.AllowedHosts))
	fs.Func("gateway.allowed-origins", "origins of other sites whose pages may use the API (CORS), comma-separated", list(&c.AllowedOrigins))
	fs.Func("gateway.trusted-proxies", "networks (CIDR) whose X-Forwarded-For is believed, comma-separated", list(&c.TrustedProxies))
	fs.Float64Var(&c.PrincipalRate.PerSecond, "gateway.principal-rate", c.PrincipalRate.PerSecond, "requests per second of one principal")
	fs.IntVar(&c.PrincipalRate.Burst, "gateway.principal-burst", c.PrincipalRate.Burst, "requests at once of one principal")
	fs.Float64Var(&c.AddressRate.PerSecond, "gateway.address-rate", c.AddressRate.PerSecond, "requests per second of one remote address")
	fs.IntVar(&c.AddressRate.Burst, "gateway.address-burst", c.AddressRate.Burst, "requests at once of one remote address")
	fs.Int64Var(&c.MaxBody, "gateway.max-body", c.MaxBody, "bytes of a request's body")
	fs.Int64Var(&c.MaxUpload, "gateway.max-upload", c.MaxUpload, "bytes of a file written to, or a body sent to, a session")
	fs.DurationVar(&c.WriteTimeout, "gateway.write-timeout", c.WriteTimeout, "how long one write to a client may take before its stream is closed")
	fs.IntVar(&c.MaxSubscriptions, "gateway.max-subscriptions", c.MaxSubscriptions, "sessions that one WebSocket may follow")
	fs.IntVar(&c.MaxStreams, "gateway.max-streams", c.MaxStreams, "open streams of one principal")
	fs.Func("gateway.trace-context", "what becomes of a request's traceparent; ignore it, join its trace and record as of any request (so it is without this flag), or obey its sampled flag too", func(s string) error {
		if s != traceIgnore && s != traceJoin && s != traceObey {
			return fmt.Errorf("want %s, %s or %s", traceIgnore, traceJoin, traceObey)
		}
		c.TraceContext = s
		return nil
	})
}

// list parses a comma-separated flag; the last value given wins.
func list(into *[]string) func(string) error {
	return func(s string) error {
		*into = nil
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*into = append(*into, item)
			}
		}
		return nil
	}
}

// withDefaults returns c with its zero fields filled.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	if c.Listen == "" {
		c.Listen = d.Listen
	}
	if c.PrincipalRate.PerSecond <= 0 || c.PrincipalRate.Burst <= 0 {
		c.PrincipalRate = d.PrincipalRate
	}
	if c.AddressRate.PerSecond <= 0 || c.AddressRate.Burst <= 0 {
		c.AddressRate = d.AddressRate
	}
	if c.MaxBody <= 0 {
		c.MaxBody = d.MaxBody
	}
	if c.MaxUpload <= 0 {
		c.MaxUpload = d.MaxUpload
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = d.WriteTimeout
	}
	if c.MaxSubscriptions <= 0 {
		c.MaxSubscriptions = d.MaxSubscriptions
	}
	if c.TraceContext == "" {
		c.TraceContext = d.TraceContext
	}
	if c.MaxStreams <= 0 {
		c.MaxStreams = d.MaxStreams
	}
	return c
}

// publicURL parses PublicURL; nil when there is none.
func (c Config) publicURL() (*url.URL, error) {
	if c.PublicURL == "" {
		return nil, nil
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("-gateway.public-url: %q is not a URL such as https://yard.example.com", c.PublicURL)
	}
	if u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("-gateway.public-url: %q has a path; the gateway needs a host name of its own", c.PublicURL)
	}
	return u, nil
}

// trusted parses TrustedProxies.
func (c Config) trusted() ([]netip.Prefix, error) {
	var ps []netip.Prefix
	for _, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("-gateway.trusted-proxies: %q is not a network such as 10.0.0.0/8", s)
		}
		ps = append(ps, p.Masked())
	}
	return ps, nil
}
