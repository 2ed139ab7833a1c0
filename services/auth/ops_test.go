package auth

import (
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

func TestUsers(t *testing.T) {
	y := newYard(t)
	admin := y.admin()
	member := admin.user(t, "mia")
	viewer := admin.user(t, "vic", api.RoleViewer)
	machine := admin.user(t, "bot", api.RoleService)
	other := admin.tenant(t, "acme")
	narrow := y.as(admin.key, api.UserWrite, api.UserRead)

	t.Run("me", func(t *testing.T) {
		for _, c := range []*caller{admin, member, viewer, machine, other} {
			me := must(t, c, api.GetMe, api.None{})
			if me.ID != c.ID || me.Name != c.Name || me.Tenant != c.Tenant || me.Rev == 0 {
				t.Errorf("got %+v, want %+v", me, c.Principal)
			}
		}
	})

	t.Run("create", func(t *testing.T) {
		for name, c := range map[string]struct {
			by   *caller
			req  api.CreateUserRequest
			code api.Code
		}{
			"a member by default":       {admin, api.CreateUserRequest{Name: "ada", Email: "ada@example.org", MaxSessions: 3}, ""},
			"an admin by an admin":      {admin, api.CreateUserRequest{Name: "adm", Roles: []api.Role{api.RoleAdmin}}, ""},
			"the same name elsewhere":   {other, api.CreateUserRequest{Name: "ada"}, ""},
			"a name that is taken":      {admin, api.CreateUserRequest{Name: "mia"}, api.CodeConflict},
			"no name":                   {admin, api.CreateUserRequest{}, api.CodeInvalid},
			"a bad name":                {admin, api.CreateUserRequest{Name: "a.b"}, api.CodeInvalid},
			"a wildcard":                {admin, api.CreateUserRequest{Name: ">"}, api.CodeInvalid},
			"a bad address":             {admin, api.CreateUserRequest{Name: "bea", Email: "Bea <bea@example.org>"}, api.CodeInvalid},
			"an unknown role":           {admin, api.CreateUserRequest{Name: "bea", Roles: []api.Role{"root"}}, api.CodeInvalid},
			"negative sessions":         {admin, api.CreateUserRequest{Name: "bea", MaxSessions: -1}, api.CodeInvalid},
			"by a member":               {member, api.CreateUserRequest{Name: "bea"}, api.CodeDenied},
			"by a viewer":               {viewer, api.CreateUserRequest{Name: "bea"}, api.CodeDenied},
			"by a machine":              {machine, api.CreateUserRequest{Name: "bea"}, api.CodeDenied},
			"an admin by scopes alone":  {narrow, api.CreateUserRequest{Name: "bea", Roles: []api.Role{api.RoleAdmin}}, api.CodeDenied},
			"a member by scopes alone":  {narrow, api.CreateUserRequest{Name: "bea"}, api.CodeDenied},
			"with a token that is none": {&caller{y: y, raw: "x.y.z"}, api.CreateUserRequest{Name: "bea"}, api.CodeUnauthenticated},
			"without a token":           {&caller{y: y}, api.CreateUserRequest{Name: "bea"}, api.CodeUnauthenticated},
		} {
			t.Run(name, func(t *testing.T) {
				u, err := ask(c.by, api.CreateUser, c.req)
				wantCode(t, err, c.code)
				if err == nil && (u.Tenant != c.by.Tenant || u.Name != c.req.Name || u.Rev == 0 || len(u.Roles) == 0) {
					t.Errorf("got %+v", u)
				}
			})
		}
	})

	t.Run("get", func(t *testing.T) {
		for name, c := range map[string]struct {
			by   *caller
			id   string
			code api.Code
		}{
			"by an admin":           {admin, member.ID, ""},
			"by a member":           {member, admin.ID, ""},
			"by a machine":          {machine, member.ID, api.CodeDenied},
			"of another tenant":     {other, member.ID, api.CodeNotFound},
			"of no tenant":          {admin, api.NewID(api.KindUser), api.CodeNotFound},
			"an id that is none":    {admin, "../..", api.CodeNotFound},
			"a subject as an id":    {admin, "*", api.CodeNotFound},
			"a key's id":            {admin, member.Key, api.CodeNotFound},
			"an endless id":         {admin, strings.Repeat("u", 10_000), api.CodeNotFound},
			"the home tenant's, by": {other, admin.ID, api.CodeNotFound},
		} {
			t.Run(name, func(t *testing.T) {
				u, err := ask(c.by, api.GetUser, api.IDRef{ID: c.id})
				wantCode(t, err, c.code)
				if err == nil && u.ID != c.id {
					t.Errorf("got %+v", u)
				}
			})
		}
	})

	t.Run("list", func(t *testing.T) {
		var names []string
		for cursor, first := "", true; first || cursor != ""; first = false {
			p := must(t, admin, api.ListUsers, api.ListUsersRequest{List: api.List{Limit: 2, Cursor: cursor}})
			if len(p.Items) > 2 {
				t.Fatalf("%d items", len(p.Items))
			}
			for _, u := range p.Items {
				if u.Tenant != api.HomeTenant {
					t.Errorf("shows %+v", u)
				}
				names = append(names, u.Name)
			}
			cursor = p.NextCursor
		}
		if got := strings.Join(names, " "); strings.Count(got, "mia") != 1 || !strings.HasSuffix(got, "bot vic mia admin") {
			t.Errorf("got %s", got)
		}
		p := must(t, admin, api.ListUsers, api.ListUsersRequest{Query: "MI"})
		for _, u := range p.Items {
			if !strings.Contains(u.Name, "mi") {
				t.Errorf("a query for mi shows %s", u.Name)
			}
		}
		for _, l := range []api.List{{Limit: 501}, {Limit: -1}, {Cursor: "x"}, {Cursor: "AAAAAAAAAAAA"}} {
			_, err := ask(admin, api.ListUsers, api.ListUsersRequest{List: l})
			wantCode(t, err, api.CodeInvalid)
		}
	})

	t.Run("update", func(t *testing.T) {
		u := must(t, admin, api.CreateUser, api.CreateUserRequest{Name: "uma"})
		email, bad, many := "uma@example.org", "uma", 1<<30
		v := must(t, admin, api.UpdateUser, api.UpdateUserRequest{ID: u.ID, IfMatch: u.Rev, Email: &email})
		if v.Email != email || v.Rev <= u.Rev {
			t.Errorf("got %+v", v)
		}
		again := must(t, admin, api.UpdateUser, api.UpdateUserRequest{ID: u.ID, Email: &email})
		if again.Rev != v.Rev {
			t.Error("what changes nothing is written")
		}
		toAdmin, none, off := []api.Role{api.RoleAdmin}, []api.Role{}, true
		for name, c := range map[string]struct {
			by   *caller
			req  api.UpdateUserRequest
			code api.Code
		}{
			"an old revision":           {admin, api.UpdateUserRequest{ID: u.ID, IfMatch: u.Rev, Email: &email}, api.CodeConflict},
			"a bad address":             {admin, api.UpdateUserRequest{ID: u.ID, Email: &bad}, api.CodeInvalid},
			"too many sessions":         {admin, api.UpdateUserRequest{ID: u.ID, MaxSessions: &many}, api.CodeInvalid},
			"no roles":                  {admin, api.UpdateUserRequest{ID: u.ID, Roles: &none}, api.CodeInvalid},
			"by a member, itself":       {member, api.UpdateUserRequest{ID: member.ID, Roles: &toAdmin}, api.CodeDenied},
			"promotion by scopes":       {narrow, api.UpdateUserRequest{ID: u.ID, Roles: &toAdmin}, api.CodeDenied},
			"of another tenant":         {other, api.UpdateUserRequest{ID: u.ID, Disabled: &off}, api.CodeNotFound},
			"of nobody":                 {admin, api.UpdateUserRequest{ID: api.NewID(api.KindUser), Disabled: &off}, api.CodeNotFound},
			"the last admin of acme":    {other, api.UpdateUserRequest{ID: other.ID, Disabled: &off}, api.CodeConflict},
			"the last admin's demotion": {other, api.UpdateUserRequest{ID: other.ID, Roles: &[]api.Role{api.RoleMember}}, api.CodeConflict},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := ask(c.by, api.UpdateUser, c.req)
				wantCode(t, err, c.code)
			})
		}
	})

	t.Run("delete", func(t *testing.T) {
		_, err := ask(other, api.DeleteUser, api.IDRef{ID: other.ID})
		wantCode(t, err, api.CodeConflict)
		_, err = ask(other, api.DeleteUser, api.IDRef{ID: member.ID})
		wantCode(t, err, api.CodeNotFound)
		_, err = ask(member, api.DeleteUser, api.IDRef{ID: viewer.ID})
		wantCode(t, err, api.CodeDenied)

		gone := admin.user(t, "zoe")
		must(t, admin, api.DeleteUser, api.IDRef{ID: gone.ID})
		_, err = ask(admin, api.GetUser, api.IDRef{ID: gone.ID})
		wantCode(t, err, api.CodeNotFound)
		_, err = ask(admin, api.DeleteUser, api.IDRef{ID: gone.ID})
		wantCode(t, err, api.CodeNotFound)
		_, err = ask(gone, api.GetMe, api.None{})
		wantCode(t, err, api.CodeUnauthenticated)
		_, err = y.exchange(gone.key)
		wantCode(t, err, api.CodeUnauthenticated)
		for _, k := range must(t, admin, api.ListKeys, api.ListKeysRequest{User: gone.ID}).Items {
			if k.RevokedAt == nil {
				t.Errorf("key %s is not revoked", k.ID)
			}
		}
		again := admin.user(t, "zoe")
		if again.ID == gone.ID {
			t.Error("a new user inherits a deleted one's id")
		}
	})
}

func TestLastAdmin(t *testing.T) {
	y := newYard(t)
	home := y.admin()
	y.start(Config{SecretFile: y.config().SecretFile})
	for round := range 5 {
		a := home.tenant(t, "t"+strings.Repeat("x", round))
		b := a.user(t, "second", api.RoleAdmin)
		// Two admins remove each other at once, each in another way.
		off := true
		errs := make(chan error, 2)
		go func() {
			_, err := ask(a, api.UpdateUser, api.UpdateUserRequest{ID: b.ID, Disabled: &off})
			errs <- err
		}()
		go func() {
			_, err := ask(b, api.DeleteUser, api.IDRef{ID: a.ID})
			errs <- err
		}()
		done := 0
		for range 2 {
			if <-errs == nil {
				done++
			}
		}
		if done != 1 {
			t.Fatalf("%d of two admins were removed by the other, want one", done)
		}
	}
}

func TestTenants(t *testing.T) {
	y := newYard(t)
	admin := y.admin()
	member := admin.user(t, "mia")
	title, off, on := "Acme Corp.", true, false
	made := must(t, admin, api.CreateTenant, api.CreateTenantRequest{Name: "acme", Title: title, MaxSessions: 7})
	if made.Title != title || made.MaxSessions != 7 || made.Rev == 0 || made.CreatedAt.IsZero() {
		t.Errorf("got %+v", made)
	}
	acme := y.as(made.AdminKey)
	if acme.Tenant != "acme" || acme.Name != "admin" {
		t.Errorf("got %+v", acme.Principal)
	}

	t.Run("create", func(t *testing.T) {
		for name, c := range map[string]struct {
			by   *caller
			req  api.CreateTenantRequest
			code api.Code
		}{
			"again":               {admin, api.CreateTenantRequest{Name: "acme"}, api.CodeConflict},
			"a bad name":          {admin, api.CreateTenantRequest{Name: "a.*"}, api.CodeInvalid},
			"a bad title":         {admin, api.CreateTenantRequest{Name: "b", Title: "\x00"}, api.CodeInvalid},
			"by a tenant's admin": {acme, api.CreateTenantRequest{Name: "b"}, api.CodeDenied},
			"by a member":         {member, api.CreateTenantRequest{Name: "b"}, api.CodeDenied},
			"with scopes":         {y.as(admin.key, api.TenantWrite), api.CreateTenantRequest{Name: "b"}, api.CodeDenied},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := ask(c.by, api.CreateTenant, c.req)
				wantCode(t, err, c.code)
			})
		}
		if _, err := y.exchange(made.AdminKey); err != nil {
			t.Errorf("the first creation's key: %v", err)
		}
	})
	t.Run("list", func(t *testing.T) {
		if got := must(t, admin, api.ListTenants, api.List{}).Items; len(got) != 2 || got[0].Name != "acme" {
			t.Errorf("the home admin sees %+v", got)
		}
		for _, c := range []*caller{acme, member} {
			if got := must(t, c, api.ListTenants, api.List{}).Items; len(got) != 1 || got[0].Name != c.Tenant {
				t.Errorf("%s sees %+v", c.Name, got)
			}
		}
	})
	t.Run("get", func(t *testing.T) {
		for name, c := range map[string]struct {
			by     *caller
			tenant string
			code   api.Code
		}{
			"own":                   {acme, "acme", ""},
			"any, by a home admin":  {admin, "acme", ""},
			"another":               {acme, "default", api.CodeNotFound},
			"another, by a member":  {member, "acme", api.CodeNotFound},
			"one that is not there": {admin, "nobody", api.CodeNotFound},
			"a subject":             {admin, ">", api.CodeNotFound},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := ask(c.by, api.GetTenant, api.NameRef{Name: c.tenant})
				wantCode(t, err, c.code)
			})
		}
	})
	t.Run("update", func(t *testing.T) {
		next := "Acme"
		got := must(t, admin, api.UpdateTenant, api.UpdateTenantRequest{Name: "acme", Title: &next})
		if got.Title != next || got.MaxSessions != 7 {
			t.Errorf("got %+v", got)
		}
		_, err := ask(admin, api.UpdateTenant, api.UpdateTenantRequest{Name: "acme", IfMatch: made.Rev, Title: &title})
		wantCode(t, err, api.CodeConflict)
		_, err = ask(acme, api.UpdateTenant, api.UpdateTenantRequest{Name: "acme", Title: &title})
		wantCode(t, err, api.CodeDenied)
		_, err = ask(admin, api.UpdateTenant, api.UpdateTenantRequest{Name: "nobody", Title: &title})
		wantCode(t, err, api.CodeNotFound)
		_, err = ask(admin, api.UpdateTenant, api.UpdateTenantRequest{Name: api.HomeTenant, Disabled: &off})
		wantCode(t, err, api.CodeInvalid)
	})
	t.Run("disable and enable", func(t *testing.T) {
		must(t, admin, api.UpdateTenant, api.UpdateTenantRequest{Name: "acme", Disabled: &off})
		until(t, "acme's token is refused", func() bool {
			_, err := ask(acme, api.GetMe, api.None{})
			return isCode(err, api.CodeUnauthenticated)
		})
		_, err := y.exchange(acme.key)
		wantCode(t, err, api.CodeUnauthenticated)
		must(t, admin, api.UpdateTenant, api.UpdateTenantRequest{Name: "acme", Disabled: &on})
		must(t, y.as(acme.key), api.GetMe, api.None{})
		_, err = ask(acme, api.GetMe, api.None{})
		wantCode(t, err, api.CodeUnauthenticated) // the old token stays dead
	})
}

func TestKeys(t *testing.T) {
	y := newYard(t)
	admin := y.admin()
	member, second := admin.user(t, "mia"), admin.user(t, "max")
	viewer := admin.user(t, "vic", api.RoleViewer)
	other := admin.tenant(t, "acme")
	narrow := y.as(admin.key, api.KeyWrite, api.KeyWrite.Any(), api.SessionRead)
	// It may do all that a member may, now.
	broad := y.as(admin.key, append(api.RoleMember.Permissions(), api.KeyWrite.Any())...)
	hour := api.Duration(time.Hour)

	t.Run("create", func(t *testing.T) {
		for name, c := range map[string]struct {
			by   *caller
			req  api.CreateKeyRequest
			code api.Code
		}{
			"own":                                     {member, api.CreateKeyRequest{Name: "laptop"}, ""},
			"own with scopes and an end":              {member, api.CreateKeyRequest{Name: "ci", Scopes: []api.Permission{api.SessionRead}, ExpiresIn: hour}, ""},
			"for another, by an admin":                {admin, api.CreateKeyRequest{Name: "ci", User: member.ID}, ""},
			"scopes within scopes":                    {narrow, api.CreateKeyRequest{Name: "ci", Scopes: []api.Permission{api.SessionRead}}, ""},
			"for another, by a member":                {member, api.CreateKeyRequest{Name: "ci", User: second.ID}, api.CodeDenied},
			"by a viewer":                             {viewer, api.CreateKeyRequest{Name: "ci"}, api.CodeDenied},
			"for another tenant's user":               {admin, api.CreateKeyRequest{Name: "ci", User: other.ID}, api.CodeNotFound},
			"for nobody":                              {admin, api.CreateKeyRequest{Name: "ci", User: api.NewID(api.KindUser)}, api.CodeNotFound},
			"for what is no id":                       {admin, api.CreateKeyRequest{Name: "ci", User: "*"}, api.CodeInvalid},
			"without a name":                          {member, api.CreateKeyRequest{}, api.CodeInvalid},
			"an unknown scope":                        {member, api.CreateKeyRequest{Name: "ci", Scopes: []api.Permission{"session:*"}}, api.CodeInvalid},
			"the empty scope":                         {member, api.CreateKeyRequest{Name: "ci", Scopes: []api.Permission{api.Authenticated}}, api.CodeInvalid},
			"a runner's scope":                        {member, api.CreateKeyRequest{Name: "ci", Scopes: []api.Permission{api.SessionScoped}}, api.CodeInvalid},
			"a scope that one does not have":          {member, api.CreateKeyRequest{Name: "ci", Scopes: []api.Permission{api.UserWrite}}, api.CodeDenied},
			"tenants, by a tenant's admin":            {other, api.CreateKeyRequest{Name: "ci", Scopes: []api.Permission{api.TenantWrite}}, api.CodeDenied},
			"more than one's scopes":                  {narrow, api.CreateKeyRequest{Name: "ci", Scopes: []api.Permission{api.UserWrite}}, api.CodeDenied},
			"all, with scopes":                        {narrow, api.CreateKeyRequest{Name: "ci"}, api.CodeDenied},
			"all of another, with scopes":             {narrow, api.CreateKeyRequest{Name: "ci", User: member.ID}, api.CodeDenied},
			"all of a member, with a member's scopes": {broad, api.CreateKeyRequest{Name: "ci", User: member.ID}, api.CodeDenied},
			"an end in the past":                      {member, api.CreateKeyRequest{Name: "ci", ExpiresIn: -hour}, api.CodeInvalid},
			"an end too far":                          {member, api.CreateKeyRequest{Name: "ci", ExpiresIn: 200_000 * hour}, api.CodeInvalid},
		} {
			t.Run(name, func(t *testing.T) {
				k, err := ask(c.by, api.CreateKey, c.req)
				wantCode(t, err, c.code)
				if err != nil {
					return
				}
				if !strings.HasPrefix(k.Secret, k.Prefix+"_") || k.Rev == 0 || (c.req.ExpiresIn != 0) != (k.ExpiresAt != nil) {
					t.Errorf("got %+v", k)
				}
				got := y.as(k.Secret)
				if got.ID != k.User || got.Key != k.ID || len(got.Scopes) != len(c.req.Scopes) {
					t.Errorf("the key is %+v", got.Principal)
				}
			})
		}
	})
	t.Run("list", func(t *testing.T) {
		all := must(t, admin, api.ListKeys, api.ListKeysRequest{}).Items
		mine := must(t, member, api.ListKeys, api.ListKeysRequest{}).Items
		if len(mine) == 0 || len(mine) >= len(all) {
			t.Fatalf("a member sees %d of %d", len(mine), len(all))
		}
		for _, k := range mine {
			if k.User != member.ID {
				t.Errorf("a member sees %+v", k)
			}
		}
		for _, k := range all {
			if k.Tenant != api.HomeTenant {
				t.Errorf("an admin sees %+v", k)
			}
		}
		_, err := ask(member, api.ListKeys, api.ListKeysRequest{User: second.ID})
		wantCode(t, err, api.CodeDenied)
		_, err = ask(viewer, api.ListKeys, api.ListKeysRequest{})
		wantCode(t, err, api.CodeDenied)
		if got := must(t, other, api.ListKeys, api.ListKeysRequest{User: member.ID}).Items; len(got) != 0 {
			t.Errorf("another tenant sees %+v", got)
		}
	})
	t.Run("last use", func(t *testing.T) {
		until(t, "the last use is shown", func() bool {
			for _, k := range must(t, second, api.ListKeys, api.ListKeysRequest{}).Items {
				if k.ID == second.Key && k.LastUsedAt != nil {
					return true
				}
			}
			return false
		})
	})
	t.Run("revoke", func(t *testing.T) {
		k := must(t, member, api.CreateKey, api.CreateKeyRequest{Name: "old"})
		for name, c := range map[string]struct {
			by   *caller
			req  api.IDRef
			code api.Code
		}{
			"another's":          {second, api.IDRef{ID: k.ID}, api.CodeNotFound},
			"another tenant's":   {other, api.IDRef{ID: k.ID}, api.CodeNotFound},
			"by a viewer":        {viewer, api.IDRef{ID: k.ID}, api.CodeDenied},
			"what is not there":  {member, api.IDRef{ID: api.NewID(api.KindKey)}, api.CodeNotFound},
			"what is no id":      {member, api.IDRef{ID: "*"}, api.CodeNotFound},
			"at an old revision": {member, api.IDRef{ID: k.ID, IfMatch: 1}, api.CodeConflict},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := ask(c.by, api.RevokeKey, c.req)
				wantCode(t, err, c.code)
			})
		}
		first := must(t, member, api.RevokeKey, api.IDRef{ID: k.ID})
		again := must(t, admin, api.RevokeKey, api.IDRef{ID: k.ID})
		if first.RevokedAt == nil || again.Rev != first.Rev {
			t.Errorf("got %+v, then %+v", first, again)
		}
	})
	t.Run("too many", func(t *testing.T) {
		eager := admin.user(t, "eager")
		for range maxLiveKeys - 1 {
			must(t, eager, api.CreateKey, api.CreateKeyRequest{Name: "one more"})
		}
		_, err := ask(eager, api.CreateKey, api.CreateKeyRequest{Name: "too many"})
		wantCode(t, err, api.CodeExhausted)
	})
}
