package sessions

import (
	"net/url"
	"testing"

	"agentyard.dev/libs/api"
)

func TestMayPresent(t *testing.T) {
	for _, tt := range []struct {
		url   string
		scope api.Scope
		hosts []string
		want  bool
	}{
		{"https://git.example.org/a/b", api.ScopeTenant, []string{"git.example.org"}, true},
		{"https://GIT.example.org:443/a", api.ScopeTenant, []string{"Git.Example.Org"}, true},
		{"https://git.example.org:8443/a", api.ScopeTenant, []string{"git.example.org:8443"}, true},
		{"http://git.internal/a", api.ScopeTenant, []string{"http://git.internal"}, true},
		{"https://[2001:db8::1]:444/a", api.ScopeTenant, []string{"[2001:db8::1]:444"}, true},
		{"https://other.example.org/a", api.ScopeTenant, []string{"git.example.org", "other.example.org"}, true},
		{"https://git.example.org:8443/a", api.ScopeTenant, []string{"git.example.org"}, false},
		{"https://git.example.org/a", api.ScopeTenant, []string{"git.example.org:8443"}, false},
		{"http://git.example.org/a", api.ScopeTenant, []string{"git.example.org"}, false}, // in the clear
		{"http://git.example.org:443/a", api.ScopeTenant, []string{"git.example.org"}, false},
		{"https://git.example.org.evil.example/a", api.ScopeTenant, []string{"git.example.org"}, false},
		{"https://evil-git.example.org/a", api.ScopeTenant, []string{"git.example.org"}, false},
		{"https://git.example.org@evil.example/a", api.ScopeTenant, []string{"git.example.org"}, false},
		{"https://evil.example/git.example.org", api.ScopeTenant, []string{"git.example.org"}, false},
		{"https://evil.example/a", api.ScopeUser, []string{"git.example.org"}, false}, // one's own, too
		{"ssh://git@git.example.org/a", api.ScopeTenant, []string{"git.example.org"}, false},
		{"https://github.com/a/b", api.ScopeTenant, nil, true},
		{"http://github.com/a/b", api.ScopeTenant, nil, false},
		{"https://evil.example/a", api.ScopeTenant, nil, false},
		{"https://anywhere.example/a", api.ScopeUser, nil, true},
	} {
		if got := mayPresent(tt.url, tt.scope, tt.hosts); got != tt.want {
			t.Errorf("%s of the %s for %v: %v", tt.url, tt.scope, tt.hosts, got)
		}
	}
}

func FuzzTokenHost(f *testing.F) {
	for _, s := range []string{"git.example.org", "http://a:80", "[::1]:443", "a@b", "a/b", "https://a?b", "a:b", "-a", "a b"} {
		f.Add(s, "evil.example")
	}
	f.Fuzz(func(t *testing.T, host, other string) {
		if !validTokenHost(host) {
			return
		}
		// Whatever else a URL says, the token goes to the host that it names.
		u := url.URL{Scheme: "https", Host: other, Path: "/" + host, User: url.User(host)}
		there, err := url.Parse(u.String())
		if err != nil || !mayPresent(u.String(), api.ScopeTenant, []string{host}) {
			return
		}
		mine, _ := place("https", there.Host)
		for _, prefix := range []string{"", "https://"} {
			if host, ok := cutPrefix(host, prefix); ok {
				if want, _ := place("https", host); want == mine {
					return
				}
			}
		}
		t.Errorf("a token for %q goes to %q", host, there.Host)
	})
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return s, false
	}
	return s[len(prefix):], true
}
