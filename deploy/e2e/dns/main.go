// Command dns is the name service of the tests' cluster: it answers for the services of Kubernetes and the pods behind them, as
// the specification of Kubernetes' DNS-based service discovery has it, and knows no other name. It asks the API server at each
// question, so that no answer is old, and it is small enough to be built at once; a real cluster has CoreDNS.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxQuestions are answered at once; who is not asks again.
	maxQuestions = 64
	// answerWithin is shorter than resolvers wait.
	answerWithin = 4 * time.Second
)

func main() {
	listen := flag.String("listen", ":53", "UDP `address`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, *listen)
	stop()
	if err != nil {
		log.Fatal("dns: ", err)
	}
}

func run(ctx context.Context, listen string) error {
	c, err := inCluster()
	if err != nil {
		return err
	}
	conn, err := new(net.ListenConfig).ListenPacket(ctx, "udp", listen)
	if err != nil {
		return err
	}
	unclosed := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer unclosed()
	room := make(chan struct{}, maxQuestions)
	for {
		buf := make([]byte, 1500)
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case room <- struct{}{}:
		default:
			continue
		}
		go func() {
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(ctx, answerWithin)
			defer cancel()
			if reply := answer(ctx, c.lookup, buf[:n]); reply != nil {
				_, _ = conn.WriteTo(reply, from) // who hears nothing asks again
			}
		}()
	}
}

// answer answers one query; nil: it is none. lookup returns the addresses of a name, or that there is none such.
func answer(ctx context.Context, lookup func(context.Context, string) ([][4]byte, bool, error), query []byte) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	addresses, known, err := lookup(ctx, q.Name.String())
	switch {
	case err != nil:
		log.Printf("look %s up: %v", q.Name, err)
		reply.RCode = dnsmessage.RCodeServerFailure
	case !known:
		reply.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
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
