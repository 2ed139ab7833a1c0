package gateway

import (
	"errors"
	"net/http"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

// fail writes err as problem+json.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errTooLarge) {
		err = rpc.WithStatus(err, http.StatusRequestEntityTooLarge)
	}
	rpc.WriteError(w, named(w, r), err)
}

// failStatus writes a problem with a status of HTTP's own, which no api.Code has: 405, 426.
func failStatus(w http.ResponseWriter, r *http.Request, status int, detail string) {
	rpc.WriteError(w, named(w, r), rpc.WithStatus(api.Errorf(api.CodeInvalid, "%s", detail), status))
}

// named returns r with the id that its answer has, for the problem to repeat.
func named(w http.ResponseWriter, r *http.Request) *http.Request {
	return r.WithContext(rpc.WithRequestID(r.Context(), w.Header().Get("X-Request-Id")))
}
