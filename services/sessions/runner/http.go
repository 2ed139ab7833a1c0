package runner

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
	serverGrace   = 2 * time.Second // for requests in progress at the end
)

// serve serves the runner's HTTP surface until ctx ends.
func (r *runner) serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: r.handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	bye, cancel := context.WithTimeout(context.Background(), serverGrace)
	defer cancel()
	if err := srv.Shutdown(bye); err != nil {
		_ = srv.Close()
	}
	<-ended //nolint:errcheck // it says that it was shut down
	return ctx.Err()
}

// handler demands the endpoint's key on each request.
func (r *runner) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", r.getStatus)
	mux.HandleFunc("GET /messages", r.getMessages)
	mux.HandleFunc("POST /message", r.postMessage)
	mux.HandleFunc("POST /upload", r.postUpload)
	mux.HandleFunc("GET /events", r.getEvents)
	mux.HandleFunc("GET /_yard/files", r.getFile)
	mux.HandleFunc("PUT /_yard/files", r.putFile)
	mux.HandleFunc("POST /_yard/push", r.postPush)
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		rpc.WriteError(w, req, api.Errorf(api.CodeNotFound, "there is nothing at %s", req.URL.Path))
	})
	ports := r.ports()
	want := sha256.Sum256([]byte(r.launch.EndpointKey))
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got := sha256.Sum256([]byte(req.Header.Get(api.RunnerKeyHeader)))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			rpc.WriteError(w, req, api.Errorf(api.CodeUnauthenticated, "the runner's key is missing or wrong"))
			return
		}
		req.Header.Del(api.RunnerKeyHeader)
		if strings.HasPrefix(req.URL.Path, portsPrefix) { // before the mux, which would clean the path
			ports.ServeHTTP(w, req)
			return
		}
		mux.ServeHTTP(w, req)
	})
}

// readError classifies an error of reading a request's body.
func readError(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return api.Errorf(api.CodeInvalid, "the request's body is larger than the %d bytes that are allowed", large.Limit)
	}
	return api.Errorf(api.CodeInvalid, "the request's body cannot be read: %v", err)
}
