package trust

import (
	"context"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// The ledgers of which auth makes tokens.
const (
	UsersNoun   = "users"
	TenantsNoun = "tenants"
)

// Account is what counts elsewhere of auth's users and tenants.
type Account struct {
	Name     string     `json:"name"`
	Roles    []api.Role `json:"roles"`
	Disabled bool       `json:"disabled"`
	Deleted  bool       `json:"deleted"`
}

// UserNow returns as whom a user would sign in at this moment, for what is done in a user's name while no token is there: denied when the user does not exist or may not sign in. It reads
// both ledgers from the bus.
func UserNow(ctx context.Context, conn *bus.Conn, tenant, id string) (api.Principal, error) {
	user, err := readAccount(ctx, conn, UsersNoun, bus.Key{Tenant: tenant, ID: id})
	if err != nil {
		return api.Principal{}, err
	}
	of, err := readAccount(ctx, conn, TenantsNoun, bus.Key{Tenant: tenant, ID: tenant})
	if err != nil {
		return api.Principal{}, err
	}
	if user.Disabled || user.Deleted || of.Disabled || of.Deleted {
		return api.Principal{}, api.Errorf(api.CodeDenied, "the user %s of %s does not exist or may not sign in", id, tenant)
	}
	return api.Principal{ID: id, Tenant: tenant, Name: user.Name, Roles: user.Roles}, nil
}

// readAccount reads one of auth's records. One that is not there is as good as deleted.
func readAccount(ctx context.Context, conn *bus.Conn, noun string, key bus.Key) (Account, error) {
	e, err := bus.ReadLedger[Account](conn, noun).Get(ctx, key)
	if api.CodeOf(err) == api.CodeNotFound {
		return Account{Deleted: true}, nil
	}
	return e.State, err
}
