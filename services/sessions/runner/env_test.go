package runner

import (
	"slices"
	"strings"
	"testing"

	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runner/repo"
)

func TestEnvironment(t *testing.T) {
	r := &runner{launch: launch.Launch{Session: "s1", Dir: "/d", Env: map[string]string{
		"MINE": "1", "LANG": "de_DE.UTF-8", "GIT_TOKEN": "for-cloning-and-pushing", "GITHUB_TOKEN": "for-the-agent-too", "AGENTYARD_SESSION": "another", "A=B": "x", "NUL": "\x00",
	}}}
	got := r.environment("")
	for _, want := range []string{"MINE=1", "LANG=de_DE.UTF-8", "GITHUB_TOKEN=for-the-agent-too", "AGENTYARD_SESSION=s1", "PATH=" + usualPath} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	for _, v := range got {
		if strings.HasPrefix(v, "GIT_TOKEN=") || strings.HasPrefix(v, "A=") || strings.HasPrefix(v, "NUL=") {
			t.Errorf("%q is the agent's", v)
		}
	}
}

func TestCredential(t *testing.T) {
	tests := []struct {
		name, url string
		env       map[string]string
		want      repo.Credential
	}{
		{"none", "https://github.com/a/b", nil, repo.Credential{}},
		{"for any host", "https://git.example.org/a/b", map[string]string{"GIT_TOKEN": "t"}, repo.Credential{Username: "x-access-token", Password: "t"}},
		{"with a name", "https://git.example.org/a/b", map[string]string{"GIT_TOKEN": "t", "GIT_USERNAME": "u"}, repo.Credential{Username: "u", Password: "t"}},
		{"GitHub's", "https://GitHub.com/a/b", map[string]string{"GITHUB_TOKEN": "g"}, repo.Credential{Username: "x-access-token", Password: "g"}},
		{"GitHub's is for GitHub only", "https://github.com.example.org/a/b", map[string]string{"GITHUB_TOKEN": "g"}, repo.Credential{}},
		{"GitHub's is not sent in the clear", "http://github.com/a/b", map[string]string{"GITHUB_TOKEN": "g"}, repo.Credential{}},
		{"not for ssh", "ssh://git@github.com/a/b", map[string]string{"GITHUB_TOKEN": "g", "GIT_TOKEN": "t"}, repo.Credential{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := credential(tt.url, tt.env); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
