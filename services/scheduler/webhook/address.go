package webhook

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
)

const (
	maxURL = 2048
	// attemptTimeout bounds one delivery, from the name's resolution to the answer's end.
	attemptTimeout = 10 * time.Second
	dialTimeout    = 5 * time.Second
	maxAnswer      = 16 << 10 // bytes of the answer that are read, to use its connection again
)

// CheckURL refuses a URL to which nothing should be sent. Names are looked at once more when they have been resolved, at each dial. private
// allows private addresses, and http.
func CheckURL(text string, private bool) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case len(text) > maxURL:
		return nil, fmt.Errorf("is longer than %d bytes", maxURL)
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("is not a URL such as https://example.org/hook")
	case u.Scheme != "https" && !(private && u.Scheme == "http"):
		return nil, fmt.Errorf("must begin with https://")
	case u.User != nil:
		return nil, fmt.Errorf("must not hold a user or a password; deliveries are signed")
	case u.Fragment != "":
		return nil, fmt.Errorf("must not have a fragment")
	case u.Port() == "0":
		return nil, fmt.Errorf("has no port to connect to")
	}
	if private {
		return u, nil
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return nil, fmt.Errorf("must not be this machine")
	}
	if addr, err := netip.ParseAddr(host); err == nil && !isPublic(addr) {
		return nil, fmt.Errorf("must not be a private address")
	}
	return u, nil
}

// reserved are the networks of the special-purpose registries (RFC 6890, RFC 8190) that no receiver on the Internet has, beside what
// netip names itself.
var reserved = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"240.0.0.0/4", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
)

// translated are the IPv6 networks whose addresses hold an IPv4 one, and where: NAT64 (RFC 6052) and 6to4 (RFC 3056).
var translated = map[netip.Prefix]int{
	netip.MustParsePrefix("64:ff9b::/96"): 12,
	netip.MustParsePrefix("2002::/16"):    2,
	netip.MustParsePrefix("::/96"):        12,
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// isPublic reports whether an address is one that anybody on the Internet could have.
func isPublic(addr netip.Addr) bool {
	addr = addr.WithZone("").Unmap()
	if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range reserved {
		if p.Contains(addr) {
			return false
		}
	}
	for p, at := range translated {
		if p.Contains(addr) {
			b := addr.As16()
			return isPublic(netip.AddrFrom4([4]byte(b[at : at+4])))
		}
	}
	return true
}

// guard refuses a connection to an address that is not public. It is asked with the address itself, behind all name resolution, so
// a name that changes its address gains nothing.
func guard(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return api.Errorf(api.CodeDenied, "%q is no address", address)
	}
	if !isPublic(at.Addr()) {
		return errPrivate
	}
	return nil
}

var errPrivate = api.Errorf(api.CodeDenied, "its name leads to a private address")

// newClient returns the client that sends deliveries. It uses no proxy, which would connect in its place, and follows no redirection.
func newClient(private bool, transport func(*http.Transport)) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	if !private {
		dialer.Control = guard
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  attemptTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns:           maxInFlight,
		MaxIdleConnsPerHost:    perEndpoint,
		IdleConnTimeout:        30 * time.Second,
	}
	if transport != nil {
		transport(t)
	}
	return &http.Client{
		Transport:     t,
		Timeout:       attemptTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
