package bus

import (
	"agentyard.dev/libs/api"
)

// maxToken bounds one subject token; ids and names are far shorter.
const maxToken = 128

// checkToken answers an invalid error unless s can be exactly one token of a subject that is
// also safe as part of a permission: letters, digits, '-' and '_' only.
func checkToken(what, s string) error {
	if s == "" {
		return api.Invalid("/"+what, "must not be empty")
	}
	if len(s) > maxToken {
		return api.Invalid("/"+what, "must be at most %d characters", maxToken)
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return api.Invalid("/"+what, "may hold letters, digits, '-' and '_' only")
		}
	}
	return nil
}

// checkTokens checks a tenant and a session or entity id.
func checkTokens(tenant, id string) error {
	if err := checkToken("tenant", tenant); err != nil {
		return err
	}
	return checkToken("id", id)
}
