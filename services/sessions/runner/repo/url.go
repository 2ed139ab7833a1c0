package repo

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
)

// Policy says which repositories may be cloned.
type Policy struct {
	// AllowPrivate permits loopback, private, link-local and other special addresses,
	// and the schemes http and file.
	AllowPrivate bool
}

const (
	maxURL         = 2048
	resolveTimeout = 10 * time.Second
	pointer        = "/repository/url"
)

// target is a checked URL.
type target struct {
	url    *url.URL
	scheme string
	host   string
	port   string
	addrs  []netip.Addr // of host, all permitted; empty for file
}

var (
	userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?$`)
	// numeric is what inet_aton(3), and so curl, takes for an address in another notation.
	numeric = regexp.MustCompile(`(^|\.)(0[xX][0-9a-fA-F]*|[0-9]+)\.?$`)
	scpLike = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*)@([A-Za-z0-9][A-Za-z0-9.-]*):([^:].*)$`)
	ports   = map[string]string{"https": "443", "http": "80", "ssh": "22", "git": "9418"}
)

// CheckURL refuses a repository URL that must not be cloned, with an invalid error that
// says why: a scheme that is not allowed, a password in it, what looks like an option,
// and (asking DNS) a host at an address that policy does not permit. A name that cannot
// be resolved now is not refused; Clone will say so.
func CheckURL(ctx context.Context, raw string, policy Policy) error {
	t, err := parseURL(raw, policy)
	if err != nil {
		return err
	}
	if err := t.resolve(ctx, policy); err != nil && api.CodeOf(err) == api.CodeInvalid {
		return err
	}
	return nil
}

func refuse(format string, args ...any) error { return api.Invalid(pointer, format, args...) }

// parseURL checks what can be checked without the network.
func parseURL(raw string, policy Policy) (*target, error) {
	switch {
	case raw == "":
		return nil, refuse("is required")
	case len(raw) > maxURL:
		return nil, refuse("is longer than %d bytes", maxURL)
	case raw[0] == '-':
		return nil, refuse("looks like an option")
	case strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' || r == 0xFFFD }):
		return nil, refuse("has a space, a control character or a backslash in it")
	}
	if m := scpLike.FindStringSubmatch(raw); m != nil && !strings.Contains(raw, "://") {
		raw = "ssh://" + m[1] + "@" + m[2] + "/" + strings.TrimPrefix(m[3], "/")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || !strings.Contains(raw, "://") {
		return nil, refuse("is not a URL such as https://host/path.git")
	}
	t := &target{url: u, scheme: u.Scheme, host: u.Hostname(), port: u.Port()}
	switch {
	case t.scheme == "https" || t.scheme == "ssh" || t.scheme == "git":
	case (t.scheme == "http" || t.scheme == "file") && policy.AllowPrivate:
	case t.scheme == "http" || t.scheme == "file":
		return nil, refuse("the scheme %s is not allowed here; use https, ssh or git", t.scheme)
	default:
		return nil, refuse("the scheme %q is not allowed; use https, ssh or git", t.scheme)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(raw, "#") {
		return nil, refuse("must not have a query or a fragment")
	}
	if u.User != nil {
		_, password := u.User.Password()
		switch {
		case password:
			return nil, refuse("must not hold a password; store it as a credential instead")
		case t.scheme != "ssh":
			return nil, refuse("must not hold a user name or a token; store it as a credential instead")
		case !userName.MatchString(u.User.Username()):
			return nil, refuse("the user name is not one")
		}
	}
	if u.Path == "" || u.Path == "/" || strings.HasPrefix(strings.TrimLeft(u.Path, "/"), "-") {
		return nil, refuse("has no path to a repository")
	}
	if strings.ContainsFunc(u.Path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, refuse("has a control character in its path")
	}
	if t.scheme == "file" {
		if t.host != "" || t.port != "" {
			return nil, refuse("a file URL has no host")
		}
		return t, nil
	}
	return t, t.checkHost()
}

func (t *target) checkHost() error {
	if addr, err := netip.ParseAddr(t.host); err == nil {
		if addr.Zone() != "" {
			return refuse("the host is an address of one link")
		}
	} else {
		switch {
		case strings.HasPrefix(t.url.Host, "["):
			return refuse("the host is not an address")
		case !hostName.MatchString(t.host) || len(t.host) > 253:
			return refuse("the host is not a name")
		case numeric.MatchString(t.host):
			return refuse("the host is an address in an unusual notation")
		}
	}
	if strings.HasSuffix(t.url.Host, ":") {
		return refuse("the port is missing")
	}
	if t.port == "" {
		t.port = ports[t.scheme]
	} else if n, err := strconv.ParseUint(t.port, 10, 16); err != nil || n == 0 {
		return refuse("the port is not one")
	}
	return nil
}

// resolve looks the host up once. Every address must be permitted: a name with a public
// and a private address is an attempt to get at the private one.
func (t *target) resolve(ctx context.Context, policy Policy) error {
	if t.scheme == "file" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", t.host)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return api.Errorf(api.CodeUnavailable, "the host %s does not exist", t.host)
		}
		return api.Errorf(api.CodeUnavailable, "look up %s: %w", t.host, err)
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap().WithZone("")
		if !policy.AllowPrivate && !public(addrs[i]) {
			return refuse("the host %s is at an address that is not public, which is not allowed here", t.host)
		}
	}
	if len(addrs) == 0 {
		return api.Errorf(api.CodeUnavailable, "the host %s has no address", t.host)
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() }) // IPv4 first
	t.addrs = addrs
	return nil
}

// special holds the address blocks that are not of the public Internet beyond those that
// netip.Addr knows itself (IANA special-purpose address registries), and those that carry
// an IPv4 address inside, which could be a private one.
var special = func() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
		"2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

// public reports whether a is an address of the public Internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}

var (
	commit   = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	refChars = regexp.MustCompile(`^[^\x00-\x20\x7f~^:?*\[\\]+$`)
)

// CheckRef refuses what is not the name of a branch, a tag, a ref or a full commit id
// (git-check-ref-format(1)). The empty ref is the default branch.
func CheckRef(ref string) error {
	bad := ref != "" && (len(ref) > 255 || !refChars.MatchString(ref) || strings.Contains(ref, "..") || strings.Contains(ref, "@{") ||
		strings.Contains(ref, "//") || strings.HasSuffix(ref, "/") || strings.HasSuffix(ref, ".") || ref == "@")
	for part := range strings.SplitSeq(ref, "/") {
		bad = bad || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock")
	}
	if bad || strings.HasPrefix(ref, "-") || strings.HasPrefix(ref, "/") {
		return api.Invalid("/repository/ref", "is not the name of a branch, a tag or a full commit id")
	}
	return nil
}
