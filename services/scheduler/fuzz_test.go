package scheduler

import (
	"strings"
	"testing"
)

func FuzzTemplate(f *testing.F) {
	f.Add("{{title}}\n\nTask {{id}}", "a title")
	f.Add("{{{{title}}}}", "{{id}}")
	f.Add("{{nobody}} {{ id }} {{", "x")
	f.Fuzz(func(t *testing.T, template, title string) {
		got := expand(template, map[string]string{"id": "t1", "title": title})
		if !strings.Contains(template, "{{") && got != template {
			t.Errorf("%q became %q", template, got)
		}
		if got := expand("{{title}}", map[string]string{"id": "t1", "title": title}); got != title {
			t.Errorf("the value %q was looked at again: %q", title, got)
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("**/*.txt", "d/e/a.txt")
	f.Add(strings.Repeat("**/a/", 80)+"b", strings.Repeat("a/", 200)+"c") // as good as endless when each "**" is tried by itself
	f.Add("[", "x")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if !validPattern(pattern) {
			return
		}
		if !matchPath(pattern, name) {
			return
		}
		if i := strings.LastIndexByte(name, '/'); i >= 0 && !matchBelow(strings.Split(pattern, "/"), strings.Split(name[:i], "/")) {
			t.Errorf("%q matches %q, but its directory is not looked through", pattern, name)
		}
	})
}

func FuzzBranch(f *testing.F) {
	for _, s := range []string{"a/b", "a..b", "-x", "a.lock", "x@{y", "a//b", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if validBranch(name) && (strings.ContainsAny(name, " ~^:?*[\\\x00\n") || strings.HasPrefix(name, "-") || strings.Contains(name, "..") || strings.HasSuffix(name, "/")) {
			t.Errorf("took %q", name)
		}
	})
}
