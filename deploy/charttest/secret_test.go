package charttest

import "regexp"

// secretForms are what secrets of ours and of our parts look like.
var secretForms = map[string]*regexp.Regexp{
	"a password of Redis":   regexp.MustCompile(`(?m)requirepass \S`),
	"a password in a URL":   regexp.MustCompile(`[a-z]+://[^/@\s:"]*:[^/@\s"]+@`),
	"a seed of NATS":        regexp.MustCompile(`\bS[AOCUN][A-Z2-7]{56}\b`),
	"a private key":         regexp.MustCompile(`BEGIN [A-Z ]*PRIVATE KEY`),
	"an API key":            regexp.MustCompile(`\bay_[a-z2-7]{10}_[a-z2-7]{40,}`),
	"a token in base64":     regexp.MustCompile(`\bZXlK[A-Za-z0-9+/]{20,}`),
	"a token (JSON Web)":    regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{10,}\.`),
	"a password of a route": regexp.MustCompile(`(?i)password: *"?[^$\s"]`),
}

// secretIn says what secret a text seems to hold, or "".
func secretIn(s string) string {
	for what, form := range secretForms {
		if found := form.FindString(s); found != "" {
			return what + ": " + found
		}
	}
	return ""
}
