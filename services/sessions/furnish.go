package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

const (
	maxRefs            = 32       // secrets of one profile
	maxServers         = 32       // MCP servers of one profile
	maxServersBytes    = 32 << 10 // of all their texts together
	maxCredentialFiles = 8
	maxHomePath        = 255
	// maxFurnished bounds the values that one session is given together.
	maxFurnished = 512 << 10
)

// secretMark stands for a secret in a text.
var secretMark = regexp.MustCompile(`\$\{secret:([A-Za-z0-9_-]{1,64})\}`)

// furnish adds to a launch what the session's profile gives its agent and nobody else: the values of secrets, MCP servers, files of
// credentials. They are nowhere but in the launch. It fails with invalid when something is missing that must be there.
func (s *Service) furnish(ctx context.Context, l *launch.Launch, rec api.SessionRecord) error {
	size := 0
	value := func(scope api.Scope, name string) (string, error) {
		v, err := s.secret(ctx, rec.Tenant, rec.Owner, scope, name)
		if err != nil {
			return "", err
		}
		if size += len(v); size > maxFurnished {
			return "", api.Errorf(api.CodeInvalid, "the profile's secrets are more than %d bytes together", maxFurnished)
		}
		return string(v), nil
	}
	env := maps.Clone(l.Env)
	if env == nil {
		env = map[string]string{}
	}
	for _, ref := range rec.Secrets {
		if ref.Env == gitToken && rec.Repository != nil {
			withheld, err := s.withholds(ctx, ref, rec)
			if err != nil {
				return err
			}
			if withheld {
				ref.Env, l.RepositoryNote = "", fmt.Sprintf("the profile's secret %q is not for that host (hosts)", ref.Name)
			}
		}
		v, err := value(ref.Scope, ref.Name)
		if api.CodeOf(err) == api.CodeNotFound && ref.Optional {
			continue
		}
		if err != nil {
			return lacking(err)
		}
		if _, given := env[ref.Env]; ref.Env != "" && !given { // who creates the session may give another
			env[ref.Env] = v
		}
		if ref.File != "" {
			l.Files = append(l.Files, launch.File{Path: ref.File, Data: []byte(v)})
		}
	}
	l.Env = env
	for _, m := range rec.MCPServers {
		var err error
		if m.Env, err = expand(m.Env, value); err == nil {
			m.Headers, err = expand(m.Headers, value)
		}
		if err != nil {
			return lacking(fmt.Errorf("MCP server %q: %w", m.Name, err))
		}
		l.MCPServers = append(l.MCPServers, m)
	}
	return s.restore(ctx, l, rec)
}

// withholds reports whether a secret for repositories is not given to a session, because its repository is not where the secret may go. Who creates a session
// chooses its repository, and must not learn a secret of the tenant by that.
func (s *Service) withholds(ctx context.Context, ref api.SecretRef, rec api.SessionRecord) (bool, error) {
	e, err := s.sealed(ctx, rec.Tenant, rec.Owner, ref.Scope, ref.Name)
	switch {
	case api.CodeOf(err) == api.CodeNotFound:
		return false, nil // there is nothing to withhold
	case err != nil:
		return false, err
	}
	return !mayPresent(rec.Repository.URL, e.State.Scope, ref.Hosts), nil
}

// lacking makes a fault of the session of what its profile names and nobody has; else trying again may help.
func lacking(err error) error {
	if api.CodeOf(err) == api.CodeNotFound {
		return api.Errorf(api.CodeInvalid, "its profile cannot be satisfied: %w", err)
	}
	return err
}

// expand returns texts with each secretMark replaced.
func expand(texts map[string]string, value func(api.Scope, string) (string, error)) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(texts))
	var failed error
	for k, text := range texts {
		out[k] = secretMark.ReplaceAllStringFunc(text, func(mark string) string {
			v, err := value("", secretMark.FindStringSubmatch(mark)[1])
			failed = errors.Join(failed, err)
			return v
		})
	}
	return out, failed
}

// needs returns the secrets without which a profile's sessions cannot start.
func needs(p api.Profile) []api.SecretRef {
	var refs []api.SecretRef
	for _, r := range p.Secrets {
		if !r.Optional {
			refs = append(refs, r)
		}
	}
	for _, m := range p.MCPServers {
		for _, texts := range []map[string]string{m.Env, m.Headers} {
			for _, k := range slices.Sorted(maps.Keys(texts)) {
				for _, found := range secretMark.FindAllStringSubmatch(texts[k], -1) {
					refs = append(refs, api.SecretRef{Name: found[1]})
				}
			}
		}
	}
	return refs
}

// satisfied adds what a profile names that neither the caller nor the tenant has.
func (s *Service) satisfied(ctx context.Context, bad *problems, pointer string, p api.Principal, profile api.Profile) error {
	for _, ref := range needs(profile) {
		_, err := s.sealed(ctx, p.Tenant, p.ID, ref.Scope, ref.Name)
		switch {
		case api.CodeOf(err) == api.CodeNotFound:
			bad.Add(pointer, "%q needs the secret %q, which is not stored; PUT /api/v1/secrets/%s", profile.Name, ref.Name, ref.Name)
		case err != nil:
			return err
		}
	}
	return nil
}

// furniture checks what a profile gives its sessions' agents.
func (p *problems) furniture(prefix string, profile api.Profile) {
	p.secretRefs(prefix+"/secrets", profile)
	p.servers(prefix+"/mcp_servers", profile.MCPServers)
	if profile.Credentials == nil {
		return
	}
	at := prefix + "/credentials/files"
	if len(profile.Credentials.Files) > maxCredentialFiles {
		p.Add(at, "has %d files; at most %d are allowed", len(profile.Credentials.Files), maxCredentialFiles)
	}
	for i, f := range profile.Credentials.Files {
		if !validHomeFile(f) {
			p.Add(at+"/"+strconv.Itoa(i), "is not a path below the home")
		}
		if slices.ContainsFunc(profile.Secrets, func(r api.SecretRef) bool { return r.File == f }) {
			p.Add(at+"/"+strconv.Itoa(i), "is the file of a secret too")
		}
	}
}

func (p *problems) secretRefs(pointer string, profile api.Profile) {
	if len(profile.Secrets) > maxRefs {
		p.Add(pointer, "has %d secrets; at most %d are allowed", len(profile.Secrets), maxRefs)
		return
	}
	envs, files := map[string]bool{}, map[string]bool{}
	for i, r := range profile.Secrets {
		at := pointer + "/" + strconv.Itoa(i)
		if !validSecretName(r.Name) {
			p.Add(at+"/name", "must be 1 to %d letters, digits, '-' and '_'", maxSecretName)
		}
		if r.Scope != "" && r.Scope != api.ScopeUser && r.Scope != api.ScopeTenant {
			p.Add(at+"/scope", "must be %q, %q or empty", api.ScopeUser, api.ScopeTenant)
		}
		if r.Env == "" && r.File == "" {
			p.Add(at, "must have an env or a file")
		}
		if _, plain := profile.Env[r.Env]; r.Env != "" && (!validEnvName(r.Env) || reservedEnv(r.Env) || plain || envs[r.Env]) {
			p.Add(at+"/env", "is not the name of a variable, is reserved, or is given twice")
		}
		if r.File != "" && (!validHomeFile(r.File) || files[r.File]) {
			p.Add(at+"/file", "is not a path below the home, or is given twice")
		}
		if len(r.Hosts) > 0 && r.Env != gitToken || len(r.Hosts) > maxHosts {
			p.Add(at+"/hosts", "are of a secret whose env is %s, and at most %d", gitToken, maxHosts)
		}
		for j, h := range r.Hosts {
			if !validTokenHost(h) {
				p.Add(at+"/hosts/"+strconv.Itoa(j), "is no host such as git.example.org, git.example.org:8443 or http://git.internal")
			}
		}
		envs[r.Env], files[r.File] = true, true
	}
}

// validHomeFile reports whether name is the path of a file below a home directory.
func validHomeFile(name string) bool {
	return name != "" && name != "." && len(name) <= maxHomePath && utf8.ValidString(name) && filepath.IsLocal(name) &&
		path.Clean(name) == name && !strings.ContainsFunc(name, func(r rune) bool { return api.IsControl(r) || r == '\\' })
}

func (p *problems) servers(pointer string, servers []api.MCPServer) {
	if len(servers) > maxServers {
		p.Add(pointer, "has %d servers; at most %d are allowed", len(servers), maxServers)
		return
	}
	size, names := 0, map[string]bool{}
	for i, m := range servers {
		at := pointer + "/" + strconv.Itoa(i)
		if !validSecretName(m.Name) || names[m.Name] {
			p.Add(at+"/name", "must be 1 to %d letters, digits, '-' and '_', and no other's", maxSecretName)
		}
		names[m.Name] = true
		size += len(m.Command) + len(m.URL)
		for _, a := range m.Args {
			size += len(a)
		}
		switch m.Type {
		case "", "stdio":
			if m.Command == "" || m.URL != "" || len(m.Headers) > 0 {
				p.Add(at+"/command", "a server on standard input and output has a command, and neither url nor headers")
			}
			p.agent(at, api.Agent{Command: append([]string{m.Command}, m.Args...)}, func(string) bool { return true })
		case "http", "sse":
			u, err := url.Parse(m.URL)
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
				p.Add(at+"/url", "is not an http or https URL without a password")
			}
			if m.Command != "" || len(m.Args) > 0 || len(m.Env) > 0 {
				p.Add(at+"/command", "a server on HTTP has neither command, args nor env")
			}
		default:
			p.Add(at+"/type", "must be stdio, http or sse")
		}
		p.env(at+"/env", m.Env)
		for _, texts := range []map[string]string{m.Env, m.Headers} {
			for k, v := range texts {
				size += len(k) + len(v)
				if !utf8.ValidString(v) || strings.ContainsFunc(v, api.IsControl) || strings.Contains(secretMark.ReplaceAllString(v, ""), "${secret:") {
					p.Add(at+"/"+escapePointer(k), "is not one line of text, or names no secret as in ${secret:NAME}")
				}
			}
		}
		for k := range m.Headers {
			if k == "" || strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) {
				p.Add(at+"/headers/"+escapePointer(k), "is not the name of a header")
			}
		}
	}
	if size > maxServersBytes {
		p.Add(pointer, "are %d bytes in all; at most %d are allowed", size, maxServersBytes)
	}
}
