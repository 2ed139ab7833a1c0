package repo

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"agentyard.dev/libs/api"
)

// The variables in which git's credential helper finds the credential.
const (
	usernameEnv = "AGENTYARD_GIT_USERNAME"
	passwordEnv = "AGENTYARD_GIT_PASSWORD" //nolint:gosec // a variable's name
)

// environment is git's, built from nothing: no proxy, no agent, no prompt, no
// configuration but ours.
func (c *clone) environment() []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.path("home"), "LANG=C", "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + c.path("gitconfig"), "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true",
		"GIT_ALLOW_PROTOCOL=" + c.target.scheme, "GIT_LFS_SKIP_SMUDGE=1", "GIT_SSH_COMMAND=" + c.ssh(),
	}
	if c.req.Credential.Password != "" {
		env = append(env, usernameEnv+"="+c.req.Credential.Username, passwordEnv+"="+c.req.Credential.Password)
	}
	return append(env, c.more...)
}

// config is git's whole configuration. A file, unlike -c, also holds for the processes
// that git starts.
func (c *clone) config() string {
	var b strings.Builder
	b.WriteString("[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\taskPass = true\n")
	b.WriteString("[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n")
	b.WriteString("[transfer]\n\tbundleURI = false\n\tcredentialsInUrl = die\n[safe]\n\tdirectory = *\n")
	fmt.Fprintf(&b, "[protocol]\n\tallow = never\n[protocol %q]\n\tallow = always\n", c.target.scheme)
	b.WriteString("[http]\n\tfollowRedirects = false\n\tproxy =\n\tlowSpeedLimit = 1\n\tlowSpeedTime = 60\n")
	if c.target.scheme == "https" || c.target.scheme == "http" {
		fmt.Fprintf(&b, "\tcurloptResolve = %q\n", c.target.host+":"+c.target.port+":"+joinAddrs(c.target.addrs))
	}
	if c.req.Credential.Password != "" && (c.target.scheme == "https" || c.target.scheme == "http") {
		fmt.Fprintf(&b, "[credential \"%s://%s\"]\n\thelper =\n\thelper = \"!f() { test \\\"$1\\\" = get && printf 'username=%%s\\\\npassword=%%s\\\\n' \\\"$%s\\\" \\\"$%s\\\"; }; f\"\n",
			c.target.scheme, c.target.url.Host, usernameEnv, passwordEnv)
	}
	return b.String()
}

// ssh is the command that connects to the pinned address and nowhere else.
func (c *clone) ssh() string {
	if c.target.scheme != "ssh" {
		return "false"
	}
	return fmt.Sprintf("ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=%s"+
		" -o HostName=%s -o HostKeyAlias=%s -o ProxyCommand=none -o PermitLocalCommand=no -o ForwardAgent=no -o ConnectTimeout=15",
		quote(c.path("known_hosts")), c.target.addrs[0], quote(c.target.host))
}

// quote quotes s for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func joinAddrs(addrs []netip.Addr) string {
	var out []string
	for _, a := range addrs {
		if a.Is6() {
			out = append(out, "["+a.String()+"]")
			continue
		}
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}

// explain turns what git said into an error for a person.
func (c *clone) explain(said string) error {
	said = strings.TrimSpace(said)
	url := c.target.url.String()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(said, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("unable to update url base from redirection", "The requested URL returned error: 30"):
		return refuse("%s redirects elsewhere, which is not followed; give the address that it redirects to", url)
	case has("could not read Username", "Authentication failed", "Permission denied (publickey", "The requested URL returned error: 401", "The requested URL returned error: 403"):
		return refuse("%s does not exist or needs a credential", url)
	case has("not found", "does not appear to be a git repository", "does not exist", "access denied or repository not exported", "The requested URL returned error: 404"):
		if has("Remote branch") {
			return api.Invalid("/repository/ref", "%s has no branch or tag %q", url, c.req.Ref)
		}
		return refuse("there is no repository at %s", url)
	case has("couldn't find remote ref", "not our ref", "Server does not allow request for unadvertised object"):
		return api.Invalid("/repository/ref", "%s has no ref or commit %q, or does not give it out", url, c.req.Ref)
	case has("Could not resolve host", "Failed to connect", "Connection refused", "Connection timed out", "unable to connect", "early EOF", "Operation too slow"):
		return api.Errorf(api.CodeUnavailable, "%s cannot be reached: %s", url, lastLine(said))
	}
	if c.more != nil {
		return refuse("git could not push to %s: %s", url, lastLine(said))
	}
	return refuse("git could not clone %s: %s", url, lastLine(said))
}

func lastLine(s string) string {
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	return strings.ToValidUTF8(s, "")
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	limit int
	buf   []byte
}

func (b *bounded) Write(p []byte) (int, error) {
	b.buf = append(b.buf, p[:min(len(p), b.limit-len(b.buf))]...)
	return len(p), nil
}

func (b *bounded) String() string { return string(b.buf) }
