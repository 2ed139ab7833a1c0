package charttest

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	commonutil "helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

// Root is the repository's root, from this package.
const Root = "../.."

// Release is what a rendering is for.
type Release struct {
	Name, Namespace string
	Upgrade         bool
}

// Object is one rendered Kubernetes object.
type Object struct {
	File string // the template
	Text string
	Tree map[string]any
}

// Kind returns the object's kind.
func (o Object) Kind() string { return text(o.Tree["kind"]) }

// Name returns the object's name.
func (o Object) Name() string { return text(dig(o.Tree, "metadata", "name")) }

// Hook returns when Helm makes the object, if it is a hook.
func (o Object) Hook() string {
	notes, _ := dig(o.Tree, "metadata", "annotations").(map[string]any)
	return text(notes["helm.sh/hook"])
}

// Load reads a chart with the charts that it depends on.
func Load(dir string) (*chart.Chart, error) {
	c, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load chart %s: %w", dir, err)
	}
	have := map[string]bool{}
	for _, d := range c.Dependencies() {
		have[d.Name()] = true
	}
	for _, d := range c.Metadata.Dependencies {
		if !have[d.Name] {
			return nil, fmt.Errorf("chart %s: there is no charts/%s", dir, d.Name)
		}
	}
	return c, nil
}

// Values reads values files, of which a later one wins, and then the values in more.
func Values(more map[string]any, files ...string) (map[string]any, error) {
	values := map[string]any{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		next := map[string]any{}
		if err := yaml.Unmarshal(data, &next); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		values = loader.MergeMaps(values, next)
	}
	return loader.MergeMaps(values, more), nil
}

// Render renders a chart as helm install does, and returns the objects in a fixed order and the notes. Values that the
// schemas refuse are an error.
func Render(dir string, r Release, values map[string]any) (objects []Object, notes string, err error) {
	c, err := Load(dir)
	if err != nil {
		return nil, "", err
	}
	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return nil, "", fmt.Errorf("dependencies of %s: %w", dir, err)
	}
	caps := common.DefaultCapabilities.Copy()
	caps.KubeVersion = common.KubeVersion{Version: "v1.36.4", Major: "1", Minor: "36"}
	all, err := commonutil.ToRenderValues(c, values, common.ReleaseOptions{
		Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: !r.Upgrade, IsUpgrade: r.Upgrade,
	}, caps)
	if err != nil {
		return nil, "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, "", err
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		switch {
		case path.Base(file) == "NOTES.txt":
			if strings.Count(file, "/") == 2 {
				notes = files[file]
			}
			continue
		case path.Ext(file) != ".yaml":
			continue
		}
		found, err := Objects(file, files[file])
		if err != nil {
			return nil, "", err
		}
		objects = append(objects, found...)
	}
	return objects, notes, nil
}

// Objects splits a rendered file.
func Objects(file, content string) ([]Object, error) {
	var objects []Object
	for _, doc := range strings.Split("\n"+content, "\n---") {
		doc = strings.TrimSpace(doc)
		if doc == "" {
			continue
		}
		o := Object{File: file, Text: doc, Tree: map[string]any{}}
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Tree); err != nil {
			return nil, fmt.Errorf("%s: %w in\n%s", file, err, doc)
		}
		if len(o.Tree) > 0 {
			objects = append(objects, o)
		}
	}
	return objects, nil
}

// Manifest is the objects as one text, each beneath the template it comes from.
func Manifest(objects []Object) []byte {
	var b bytes.Buffer
	for _, o := range objects {
		fmt.Fprintf(&b, "---\n# %s\n%s\n", o.File, o.Text)
	}
	return b.Bytes()
}

// Helm returns the directory of a chart.
func Helm(name string) string { return filepath.Join(Root, "deploy", "helm", name) }

func text(v any) string {
	s, _ := v.(string)
	return s
}

// dig returns what lies at keys in nested maps, or nil.
func dig(v any, keys ...string) any {
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}
