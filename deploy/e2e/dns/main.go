// Command dns is the name service of the tests' cluster: it answers for the services of Kubernetes and the pods behind them, as
// the specification of Kubernetes' DNS-based service discovery has it, and knows no other name. It is small enough to be read; a real
// cluster has CoreDNS.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelist "k8s.io/client-go/listers/core/v1"
	discoverylist "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/rest"
)

func main() {
	listen := flag.String("listen", ":53", "UDP `address`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen); err != nil {
		log.Fatal("dns: ", err)
	}
}

func run(ctx context.Context, listen string) error {
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	all := informers.NewSharedInformerFactory(client, 0)
	z := zone{services: all.Core().V1().Services().Lister(), slices: all.Discovery().V1().EndpointSlices().Lister()}
	all.Start(ctx.Done())
	for what, ok := range all.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("follow %v: %w", what, ctx.Err())
		}
	}
	conn, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() { <-ctx.Done(); _ = conn.Close() }()
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if answer := z.answer(buf[:n]); answer != nil {
			_, _ = conn.WriteTo(answer, from) // who hears nothing asks again
		}
	}
}

// zone is what the cluster has.
type zone struct {
	services corelist.ServiceLister
	slices   discoverylist.EndpointSliceLister
}

// answer answers one query; nil: it is none.
func (z zone) answer(query []byte) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	addresses, known := z.lookup(q.Name.String())
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	if q.Type == dnsmessage.TypeA {
		for _, a := range addresses {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
				Body:   &dnsmessage.AResource{A: a},
			})
		}
	}
	packed, err := reply.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// lookup returns the addresses of a name: of a service, of what is behind a headless one, or of one pod behind it by its host name.
func (z zone) lookup(name string) (addresses [][4]byte, known bool) {
	rest, ok := strings.CutSuffix(strings.ToLower(name), ".svc.cluster.local.")
	if !ok {
		return nil, false
	}
	parts := strings.Split(rest, ".")
	host := ""
	switch len(parts) {
	case 2:
	case 3:
		host, parts = parts[0], parts[1:]
	default:
		return nil, false
	}
	service, err := z.services.Services(parts[1]).Get(parts[0])
	if err != nil {
		return nil, false
	}
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		return four(service.Spec.ClusterIP), host == ""
	}
	slices, err := z.slices.EndpointSlices(parts[1]).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: parts[0]}))
	if err != nil {
		return nil, false
	}
	for _, s := range slices {
		for _, e := range s.Endpoints {
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			if !ready || host != "" && (e.Hostname == nil || *e.Hostname != host) {
				continue
			}
			for _, a := range e.Addresses {
				addresses = append(addresses, four(a)...)
			}
		}
	}
	return addresses, host == "" || len(addresses) > 0
}

func four(address string) [][4]byte {
	ip := net.ParseIP(address).To4()
	if ip == nil {
		return nil
	}
	return [][4]byte{[4]byte(ip)}
}
