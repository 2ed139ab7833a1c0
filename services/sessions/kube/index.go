package kube

// index has what is known of pods by the pod's name, and together what belongs to one session or pool. The zero value is empty.
type index[K comparable, V any] struct {
	named map[string]V
	of    map[K]map[string]V // by name again; no entry is empty
}

func (x *index[K, V]) put(key K, name string, v V) {
	if x.named == nil {
		x.named, x.of = map[string]V{}, map[K]map[string]V{}
	}
	if x.of[key] == nil {
		x.of[key] = map[string]V{}
	}
	x.named[name], x.of[key][name] = v, v
}

func (x *index[K, V]) drop(key K, name string) {
	delete(x.named, name)
	delete(x.of[key], name)
	if len(x.of[key]) == 0 {
		delete(x.of, key)
	}
}
