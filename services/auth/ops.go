package auth

import (
	"context"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

// handle registers every operation of libs/api/ops_auth.go.
func (s *Service) handle() {
	// It waits: for a key that is on its way, and out a failure.
	rpc.HandleLong(s.server, api.Exchange, exchangeTimeout, s.exchange)
	rpc.Handle(s.server, api.JWKS, s.keySet)
	rpc.Handle(s.server, api.ActAs, s.actAs)
	rpc.Handle(s.server, api.RecordAct, s.recordAct)

	answer(s, api.GetMe, s.me)
	answer(s, api.CreateUser, s.createUser)
	answer(s, api.ListUsers, s.listUsers)
	answer(s, api.GetUser, s.getUser)
	answer(s, api.UpdateUser, s.updateUser)
	answer(s, api.DeleteUser, s.deleteUser)

	answer(s, api.CreateTenant, s.createTenant)
	answer(s, api.ListTenants, s.listTenants)
	answer(s, api.GetTenant, s.getTenant)
	answer(s, api.UpdateTenant, s.updateTenant)

	answer(s, api.CreateKey, s.createKey)
	answer(s, api.ListKeys, s.listKeys)
	answer(s, api.RevokeKey, s.revokeKey)

	answer(s, api.ListAudit, s.listAudit)
	answer(s, api.RecordDenial, s.recordDenial)
}

// answer registers h, which is given the principal that the server has verified.
func answer[Req, Resp any](s *Service, op api.Op[Req, Resp], h func(context.Context, api.Principal, Req) (Resp, error)) {
	rpc.Handle(s.server, op, func(ctx context.Context, req Req) (Resp, error) {
		p, ok := api.PrincipalFrom(ctx)
		if !ok {
			var none Resp
			return none, api.Errorf(api.CodeUnauthenticated, "no valid credential came with the request")
		}
		return h(ctx, p, req)
	})
}

// page lists one page of what index holds under value, newest first.
func page[T, Item any](v *bus.View[T], index, value string, l api.List, keep func(bus.Entry[T]) bool, item func(bus.Entry[T]) Item) (api.Page[Item], error) {
	limit, err := l.Bound()
	if err != nil {
		return api.Page[Item]{}, err
	}
	before, err := decodeCursor(l.Cursor)
	if err != nil {
		return api.Page[Item]{}, err
	}
	entries := v.List(index, value, before, limit+1, keep) // one more tells whether there is a next page
	out := api.Page[Item]{Items: make([]Item, 0, min(len(entries), limit))}
	if len(entries) > limit {
		entries = entries[:limit]
		out.NextCursor = encodeCursor(entries[limit-1].Created)
	}
	for _, e := range entries {
		out.Items = append(out.Items, item(e))
	}
	return out, nil
}

// meta says in a ledger that p did verb.
func meta(p api.Principal, verb string) bus.Meta { return bus.Meta{Actor: p.ID, Verb: verb} }

// notFound is the answer for what does not exist and for what the caller may not see.
func notFound(what, id string) error {
	const shown = 60 // of an id that may be anything
	if len(id) > shown {
		id = id[:shown] + "…"
	}
	return api.Errorf(api.CodeNotFound, "there is no %s %q", what, id)
}
