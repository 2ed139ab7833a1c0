package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// target is an HTTP/1.1 server and the request that is sent to it over and over.
type target struct {
	network, addr string
	request       []byte
}

func newTarget(network, addr, path string, header http.Header) target {
	req := "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
	for k, vs := range header {
		for _, v := range vs {
			req += k + ": " + v + "\r\n"
		}
	}
	return target{network, addr, []byte(req + "\r\n")}
}

// result is what a load run saw.
type result struct {
	throughput float64 // answers per second
	latencies  []time.Duration
}

// load sends t's request over c connections, each as fast as its answers come, for d.
func (t target) load(ctx context.Context, c int, d time.Duration) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var (
		mu   sync.Mutex
		res  result
		errs []error
		wg   sync.WaitGroup
	)
	start := time.Now()
	for range c {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ls, err := t.loop(ctx)
			mu.Lock()
			defer mu.Unlock()
			res.latencies = append(res.latencies, ls...)
			if err != nil {
				errs = append(errs, err)
			}
		}()
	}
	wg.Wait()
	res.throughput = float64(len(res.latencies)) / time.Since(start).Seconds()
	return res, errors.Join(errs...)
}

func (t target) loop(ctx context.Context) ([]time.Duration, error) {
	conn, err := new(net.Dialer).DialContext(ctx, t.network, t.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	var ls []time.Duration
	for ctx.Err() == nil {
		start := time.Now()
		if _, err := conn.Write(t.request); err != nil {
			return ls, err
		}
		resp, err := http.ReadResponse(r, nil) //nolint:bodyclose // it is read to its end, and the connection goes on
		if err != nil {
			return ls, err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return ls, err
		}
		if resp.StatusCode != http.StatusOK {
			return ls, fmt.Errorf("%s %s answered %s", t.network, t.addr, resp.Status)
		}
		ls = append(ls, time.Since(start))
	}
	return ls, nil
}
