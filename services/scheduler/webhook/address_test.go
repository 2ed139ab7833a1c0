package webhook

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"agentyard.dev/libs/api"
)

func TestAddress(t *testing.T) {
	for text, want := range map[string]bool{
		"93.184.215.14": true, "8.8.8.8": true, "2606:4700::1111": true, "2a00:1450:4001::1": true, "::ffff:8.8.8.8": true,
		"172.32.0.1": true, "100.128.0.1": true, "64:ff9b::808:808": true, "2002:808:808::1": true,
		"127.0.0.1": false, "127.9.9.9": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "::": false, "0.1.2.3": false,
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "fd00::1": false, "fc00::1": false,
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "fd00:ec2::254": false, "::ffff:169.254.169.254": false,
		"100.64.0.1": false, "100.100.100.200": false, "192.0.0.192": false, "198.18.0.1": false, "192.0.2.1": false, "203.0.113.9": false,
		"224.0.0.1": false, "255.255.255.255": false, "240.0.0.1": false, "ff02::1": false, "2001:db8::1": false, "fec0::1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2002:a9fe:a9fe::1": false,
		"2001::1": false, "::127.0.0.1": false, "::a9fe:a9fe": false,
	} {
		if got := isPublic(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: public %v, want %v", text, got, want)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for _, good := range []string{"https://example.org", "https://example.org:8443/a?b=c", "https://93.184.215.14/", "https://[2606:4700::1111]/", "HTTPS://Example.org/"} {
		if _, err := CheckURL(good, false); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, says := range map[string]string{
		"": "not a URL", "example.org": "not a URL", "https:": "not a URL", "https://": "not a URL", "https:example.org": "not a URL", "https://:443/": "not a URL",
		"http://example.org/": "https://", "ftp://example.org/": "https://", "file:///etc/passwd": "not a URL", "gopher://example.org/": "https://",
		"https://user@example.org/": "user", "https://u:p@example.org/": "user", "https://example.org/#x": "fragment", "https://example.org:0/": "port",
		"https://localhost/": "this machine", "https://LOCALHOST./": "this machine", "https://a.localhost/": "this machine",
		"https://127.0.0.1/": "private", "https://[::1]/": "private", "https://169.254.169.254/latest/meta-data": "private", "https://[::ffff:10.0.0.1]/": "private",
		"https://10.0.0.1./": "private", "https://ex ample.org/": "not a URL", "https://example.org/\n": "not a URL",
		"https://example.org/" + strings.Repeat("x", maxURL): "longer",
	} {
		if _, err := CheckURL(bad, false); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60q: %v does not say %q", bad, err, says)
		}
	}
	if _, err := CheckURL("http://127.0.0.1:9/", true); err != nil {
		t.Errorf("when private ones are allowed: %v", err)
	}
}

// TestGuard shows that what CheckURL cannot see, where a name leads, is refused at the dial.
func TestGuard(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(false, nil)
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"} {
		resp, err := client.Get("http://" + host + ":" + port)
		if err == nil {
			_ = resp.Body.Close()
		}
		if !errors.Is(err, &api.Error{Code: api.CodeDenied}) {
			t.Errorf("%s: got %v", host, err)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests arrived", n)
	}
	resp, err := newClient(true, nil).Get(server.URL)
	if err != nil || asked.Load() != 1 {
		t.Fatalf("when private addresses are allowed: %v", err)
	}
	_ = resp.Body.Close()
}

func FuzzCheckURL(f *testing.F) {
	for _, u := range []string{"https://example.org/", "https://[::1%25eth0]/", "https://127.1/", "https://0x7f000001/", "https://①②⑦.0.0.1/", "https://a@b/"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := CheckURL(text, false)
		if err != nil {
			return
		}
		if u.Scheme != "https" || u.User != nil || u.Hostname() == "" || len(text) > maxURL {
			t.Errorf("%q was taken", text)
		}
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && !isPublic(addr) {
			t.Errorf("%q leads to %v", text, addr)
		}
		if _, err := http.NewRequest(http.MethodPost, u.String(), nil); err != nil {
			t.Errorf("%q makes no request: %v", text, err)
		}
	})
}
