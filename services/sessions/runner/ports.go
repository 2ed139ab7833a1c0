package runner

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

const (
	portsPrefix = "/_yard/ports/"
	portDial    = 5 * time.Second
	portConns   = 64 // kept open to the session's servers
)

// errPort says that no process of this session listens on a port.
var errPort = errors.New("no process of this session listens there")

type portKey struct{}

// ports proxies to servers that processes of this session listen with on loopback.
func (r *runner) ports() http.Handler {
	dialer := &net.Dialer{Timeout: portDial}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1, // server-sent events pass at once
		Rewrite: func(p *httputil.ProxyRequest) {
			addr, _ := p.In.Context().Value(portKey{}).(netip.AddrPort)
			p.SetURL(&url.URL{Scheme: "http", Host: addr.String()})
			p.Out.Host = "localhost:" + strconv.Itoa(int(addr.Port()))
			p.Out.Header.Del("Authorization")
			p.Out.Header.Del("Cookie")
		},
		Transport: &http.Transport{
			DialContext:        r.dialInside(dialer),
			DisableCompression: true, MaxIdleConnsPerHost: portConns, MaxIdleConns: portConns, IdleConnTimeout: idleTimeout,
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			rpc.WriteError(w, req, api.Errorf(api.CodeUnavailable, "the session's server did not answer: %v", err))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		port, rest, err := cutPort(req.URL)
		if err == nil {
			var addr netip.AddrPort
			if addr, err = r.listening(port); err == nil {
				out := req.Clone(context.WithValue(req.Context(), portKey{}, addr))
				out.URL.Path, out.URL.RawPath = rest.Path, rest.RawPath
				proxy.ServeHTTP(w, out)
				return
			}
			if errors.Is(err, errPort) {
				err = api.Errorf(api.CodeNotFound, "no process of this session listens on port %d", port)
			}
		}
		rpc.WriteError(w, req, err)
	})
}

// dialInside dials where the session's servers are.
func (r *runner) dialInside(dialer *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	if r.network == nil {
		return dialer.DialContext
	}
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = r.network.Do(func() (err error) {
			conn, err = dialer.DialContext(ctx, network, address) // an address, no name: the socket is this thread's
			return err
		})
		return conn, err
	}
}

// cutPort splits /_yard/ports/{port}/{rest}, keeping how rest was escaped.
func cutPort(u *url.URL) (uint16, url.URL, error) {
	escaped := strings.TrimPrefix(u.EscapedPath(), portsPrefix)
	digits, rest, _ := strings.Cut(escaped, "/")
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || digits[0] == '0' || digits[0] == '+' {
		return 0, url.URL{}, api.Invalid("/port", "is not a port number")
	}
	path, err := url.PathUnescape(rest)
	if err != nil {
		return 0, url.URL{}, api.Invalid("/path", "is not escaped as a URL's path")
	}
	return uint16(n), url.URL{Path: "/" + path, RawPath: "/" + rest}, nil
}
