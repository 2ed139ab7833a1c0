package repo

import (
	"net/netip"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

func TestCheckURL(t *testing.T) {
	tests := []struct{ url, refused, private string }{ // "" means that it is allowed
		{"https://93.184.216.34/a/b.git", "", ""},
		{"ssh://git@93.184.216.34/a/b.git", "", ""},
		{"git@93.184.216.34:a/b.git", "", ""},
		{"git://93.184.216.34/a", "", ""},
		{"https://[2606:4700::1]/a", "", ""},
		{"http://93.184.216.34/a", "scheme http", ""},
		{"file:///srv/a.git", "scheme file", ""},
		{"https://127.0.0.1/a", "not public", ""},
		{"https://localhost/a", "not public", ""},
		{"https://10.1.2.3/a", "not public", ""},
		{"https://172.16.0.1/a", "not public", ""},
		{"https://192.168.1.1:8443/a", "not public", ""},
		{"https://169.254.169.254/latest/meta-data", "not public", ""},
		{"https://100.64.0.1/a", "not public", ""},
		{"https://0.0.0.0/a", "not public", ""},
		{"https://[::1]/a", "not public", ""},
		{"https://[::ffff:127.0.0.1]/a", "not public", ""},
		{"https://[64:ff9b::7f00:1]/a", "not public", ""},
		{"https://[fd00:ec2::254]/a", "not public", ""},
		{"https://[fe80::1]/a", "not public", ""},
		{"git@127.0.0.1:a", "not public", ""},
		{"https://2130706433/a", "unusual notation", "unusual notation"},
		{"https://0x7f.0.0.1/a", "unusual notation", "unusual notation"},
		{"https://127.1/a", "unusual notation", "unusual notation"},
		{"https://0177.0.0.01/a", "unusual notation", "unusual notation"},
		{"https://user:secret@93.184.216.34/a", "password", "password"},
		{"https://ghp_token@93.184.216.34/a", "token", "token"},
		{"ssh://git:x@93.184.216.34/a", "password", "password"},
		{"ssh://-oProxyCommand=x@93.184.216.34/a", "user name", "user name"},
		{"ssh://-oProxyCommand=touch/a", "not a name", "not a name"},
		{"--upload-pack=touch /tmp/x", "option", "option"},
		{"-u", "option", "option"},
		{"ext::sh -c touch% /tmp/x", "space", "space"},
		{"ext::sh", "not a URL", "not a URL"},
		{"fd::17/x", "not a URL", "not a URL"},
		{"ext://x/y", "not allowed", "not allowed"},
		{"/etc", "not a URL", "not a URL"},
		{"../x", "not a URL", "not a URL"},
		{"https://", "no path", "no path"},
		{"https:///a", "not a name", "not a name"},
		{"https://93.184.216.34", "no path", "no path"},
		{"https://93.184.216.34/a?x=y", "query", "query"},
		{"https://93.184.216.34/a#b", "fragment", "fragment"},
		{"https://93.184.216.34/a%0ab", "control", "control"},
		{"https://93.184.216.34:0/a", "port", "port"},
		{"https://93.184.216.34:99999/a", "port", "port"},
		{"https://a\nb/c", "control", "control"},
		{"file://host/a", "scheme file", "no host"},
		{"", "required", "required"},
		{"https://" + strings.Repeat("a", 3000) + "/x", "longer", "longer"},
	}
	for _, tt := range tests {
		for _, mode := range []struct {
			policy Policy
			want   string
		}{{Policy{}, tt.refused}, {Policy{AllowPrivate: true}, tt.private}} {
			err := CheckURL(t.Context(), tt.url, mode.policy)
			switch {
			case mode.want == "" && err != nil:
				t.Errorf("%q with %+v: %v", tt.url, mode.policy, err)
			case mode.want != "" && (err == nil || api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), mode.want)):
				t.Errorf("%q with %+v: %v, want invalid with %q", tt.url, mode.policy, err, mode.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: the error repeats the password: %v", tt.url, err)
			}
		}
	}
}

func TestCheckRef(t *testing.T) {
	for _, ok := range []string{"", "main", "feature/x-1", "v1.2.3", "refs/pull/7/head", strings.Repeat("a", 40)} {
		if err := CheckRef(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"-x", "--upload-pack=x", "a..b", "a b", "a\nb", "a~1", "a^", "a:b", "a?", "a*", "a[", `a\b`, "a@{1}", "/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a.", "@", strings.Repeat("a", 256)} {
		if err := CheckRef(bad); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %v, want invalid", bad, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"https://host/a", "git@host:a/b", "ssh://git@[::1]:22/a", "ext::x", "https://u:p@h/x", "--x", "https://127.1/a", "https://%31/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		target, err := parseURL(raw, Policy{})
		if err != nil {
			if api.CodeOf(err) != api.CodeInvalid {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		s := target.url.String()
		if _, password := target.url.User.Password(); password || s[0] == '-' || strings.ContainsAny(s, " \n\t\x00") || ports[target.scheme] == "" || target.scheme == "http" {
			t.Fatalf("%q is allowed as %q", raw, s)
		}
		if strings.HasPrefix(target.host, "-") || target.host == "" {
			t.Fatalf("%q is allowed with host %q", raw, target.host)
		}
		if a, err := netip.ParseAddr(target.host); err == nil {
			err := target.resolve(t.Context(), Policy{})
			if (err == nil) != public(a) {
				t.Fatalf("%q: %v, but public is %v", raw, err, public(a))
			}
		}
	})
}
