package sessions

import (
	"net"
	"net/url"
	"regexp"
	"strings"

	"agentyard.dev/libs/api"
)

// gitToken is the variable whose secret is for the session's repository and not for its agent (ADR 35).
const gitToken = "GIT_TOKEN"

// maxHosts bounds the hosts of one secret.
const maxHosts = 16

// usualHosts get a secret of the tenant that names no host.
var usualHosts = []string{"github.com"}

var hostLike = regexp.MustCompile(`^(https?://)?([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`)

// validTokenHost reports whether text names a host as api.SecretRef.Hosts does.
func validTokenHost(text string) bool { return len(text) <= 255 && hostLike.MatchString(text) }

// place is where a token may be presented: a scheme, a host and a port.
func place(scheme, host string) (string, bool) {
	port, ok := map[string]string{"https": "443", "http": "80"}[scheme]
	if !ok || host == "" {
		return "", false
	}
	name := host
	if h, p, err := net.SplitHostPort(host); err == nil {
		name, port = h, p
	}
	return scheme + "://" + strings.ToLower(strings.Trim(name, "[]")) + " " + port, true
}

// mayPresent reports whether a secret of such a scope that is for hosts may be presented where repository is.
func mayPresent(repository string, scope api.Scope, hosts []string) bool {
	if len(hosts) == 0 {
		if scope == api.ScopeUser {
			return true
		}
		hosts = usualHosts
	}
	u, err := url.Parse(repository)
	if err != nil {
		return false
	}
	there, ok := place(strings.ToLower(u.Scheme), u.Host)
	if !ok {
		return false
	}
	for _, h := range hosts {
		scheme, host, found := strings.Cut(h, "://")
		if !found {
			scheme, host = "https", h
		}
		if allowed, ok := place(scheme, host); ok && allowed == there {
			return true
		}
	}
	return false
}
