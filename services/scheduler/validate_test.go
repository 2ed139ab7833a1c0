package scheduler

import (
	"net/url"
	"testing"

	"agentyard.dev/libs/api"
)

// TestCheckRepository: a task is kept and shown with the URL of its repository, so a sign-in in it is refused before anything is written.
func TestCheckRepository(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://example.com/r.git":             true,
		"https://example.com:8443/r.git":        true,
		"https://example.com/@scope/r.git":      true,
		"ssh://git@example.com:22/r.git":        true,
		"git@example.com:team/r.git":            true,
		"git://example.com/r.git":               true,
		"":                                      false,
		"https://token@example.com/r.git":       false,
		"https://user:secret@example.com/r.git": false,
		"https://user:@example.com/r.git":       false,
		"https://u:p@ss@example.com/r.git":      false,
		"https://user:s%zz@example.com/r.git":   false,
		"ssh://git:secret@example.com/r.git":    false,
		"user:secret@example.com:team/r.git":    false,
		"//token@example.com/r.git":             false,
		"https:////user:secret@example.com/r":   false,
		"https://example.com/r.git\nx":          false,
	} {
		var bad api.Problems
		checkRepository(&bad, "/repository", &api.Repository{URL: url})
		if err := bad.Err(); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
	var bad api.Problems
	if checkRepository(&bad, "/repository", nil); bad.Err() != nil {
		t.Errorf("none: %v", bad.Err())
	}
}

// FuzzRepository: whatever is taken holds no sign-in, as the standard library reads it.
func FuzzRepository(f *testing.F) {
	for _, s := range []string{"https://example.com/r.git", "https://u:p@example.com/r", "git@example.com:r.git", "ssh://git@example.com/r", "ssh://git:p@h/r", "https:////u:p@h", "https://h?@", "HTTPS://u@h/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var bad api.Problems
		checkRepository(&bad, "/repository", &api.Repository{URL: text})
		if bad.Err() != nil {
			return
		}
		u, err := url.Parse(text)
		if err != nil || u.User == nil {
			return
		}
		if _, secret := u.User.Password(); secret || u.User.Username() != "" && u.Scheme != "ssh" {
			t.Errorf("%q was taken", text)
		}
	})
}
