package sessions

import (
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// MeasureList measures list for one owner on a view of ledger.
func MeasureList(b *testing.B, ledger *bus.Ledger[api.SessionRecord], owner string, n int) {
	s := &Service{view: ledger.View(bus.ViewConfig[api.SessionRecord]{Indexes: indexes()})}
	go func() { _ = s.view.Run(b.Context()) }()
	<-s.view.Ready()
	ctx := api.WithPrincipal(b.Context(), api.Principal{ID: owner, Tenant: api.HomeTenant, Roles: []api.Role{api.RoleMember}})
	for b.Loop() {
		page, err := s.list(ctx, api.ListSessionsRequest{List: api.List{Limit: n}})
		if err != nil || len(page.Items) != n {
			b.Fatalf("%d sessions, %v", len(page.Items), err)
		}
	}
}
