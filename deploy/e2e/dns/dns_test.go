package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// apiServer knows a service, a headless one with a pod that is ready and one that is not, and nothing else.
func apiServer(t *testing.T) *cluster {
	t.Helper()
	mux := http.NewServeMux()
	for path, body := range map[string]string{
		"/api/v1/namespaces/yard/services/web": `{"spec": {"clusterIP": "10.96.1.2"}}`,
		"/api/v1/namespaces/yard/services/bus": `{"spec": {"clusterIP": "None"}}`,
		"/apis/discovery.k8s.io/v1/namespaces/yard/endpointslices": `{"items": [{"endpoints": [
			{"addresses": ["10.244.1.1"], "hostname": "bus-0", "conditions": {"ready": true}},
			{"addresses": ["10.244.1.2"], "hostname": "bus-1", "conditions": {"ready": false}}]}]}`,
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return &cluster{base: s.URL, client: s.Client()}
}

func TestAnswer(t *testing.T) {
	c := apiServer(t)
	for _, q := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want []string
	}{
		{"web.yard.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"10.96.1.2"}},
		{"WEB.yard.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"10.96.1.2"}},
		{"web.yard.svc.cluster.local.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, nil},
		{"bus.yard.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"10.244.1.1"}},
		{"bus-0.bus.yard.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"10.244.1.1"}},
		{"bus-1.bus.yard.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
		{"gone.yard.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
		{"example.com.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
	} {
		query := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName(q.name), Type: q.kind, Class: dnsmessage.ClassINET,
		}}}
		packed, err := query.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var reply dnsmessage.Message
		if err := reply.Unpack(answer(t.Context(), c.lookup, packed)); err != nil {
			t.Fatalf("%s: %v", q.name, err)
		}
		var got []string
		for _, a := range reply.Answers {
			ip := a.Body.(*dnsmessage.AResource).A
			got = append(got, fmt.Sprintf("%d.%d.%d.%d", ip[0], ip[1], ip[2], ip[3]))
		}
		if reply.ID != 7 || !reply.Response || reply.RCode != q.code || fmt.Sprint(got) != fmt.Sprint(q.want) {
			t.Errorf("%s %v: %v %v, want %v %v", q.name, q.kind, reply.RCode, got, q.code, q.want)
		}
	}
	if reply := answer(t.Context(), c.lookup, []byte("no query")); reply != nil {
		t.Errorf("what is no query is answered %q", reply)
	}
}
