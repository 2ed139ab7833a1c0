package sessions

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
)

// Bounds of what a profile says about pods.
const (
	maxImage     = 512
	maxPodItems  = 32
	minVolume    = 1 << 20
	maxPodText   = 32 << 10 // of annotations
	maxNameBytes = 253
	maxDevices   = 1024
)

var (
	// imageName is a reference as container runtimes take it, roughly: the cluster has the last word.
	imageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]*$`)
	// objectName is a name of Kubernetes (RFC 1123 subdomain).
	objectName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
	// labelName is a label's key: perhaps a prefix and a name; labelValue is what a label may hold.
	labelName  = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	plainName  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	labelValue = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$`)
)

var tolerationEffects = []string{"", "NoSchedule", "PreferNoSchedule", "NoExecute"}

// pod checks what a profile says about its image and its pods.
func (p *problems) pod(prefix, image string, pod api.Pod) {
	if len(image) > maxImage || image != "" && !imageName.MatchString(image) {
		p.Add(prefix+"/image", "is no name of an image")
	}
	at := prefix + "/pod"
	items := len(pod.Config) + len(pod.Egress) + len(pod.PullSecrets) + len(pod.NodeSelector) + len(pod.Tolerations) + len(pod.Devices) + len(pod.Labels) + len(pod.Annotations)
	if items > maxPodItems {
		p.Add(at, "has %d entries; at most %d are allowed", items, maxPodItems)
		return
	}
	p.object(at+"/runtime_class", pod.RuntimeClass)
	for i, name := range pod.PullSecrets {
		if name == "" {
			p.Add(at+"/pull_secrets/"+strconv.Itoa(i), "is empty")
		}
		p.object(at+"/pull_secrets/"+strconv.Itoa(i), name)
	}
	for _, k := range slices.Sorted(maps.Keys(pod.NodeSelector)) {
		if !validQualified(k) || !labelValue.MatchString(pod.NodeSelector[k]) {
			p.Add(at+"/node_selector/"+escapePointer(k), "is no label of a node")
		}
	}
	for i, t := range pod.Tolerations {
		where := at + "/tolerations/" + strconv.Itoa(i)
		switch {
		case t.Operator != "" && t.Operator != "Exists" && t.Operator != "Equal":
			p.Add(where+"/operator", "must be Exists or Equal")
		case t.Key == "" && t.Operator != "Exists" || t.Key != "" && !validQualified(t.Key):
			p.Add(where+"/key", "is no name of a taint")
		case !labelValue.MatchString(t.Value) || t.Value != "" && t.Operator == "Exists":
			p.Add(where+"/value", "is no value of a taint")
		case !slices.Contains(tolerationEffects, t.Effect):
			p.Add(where+"/effect", "must be one of %s", strings.Join(tolerationEffects[1:], ", "))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(pod.Devices)) {
		if n := pod.Devices[k]; !validQualified(k) || !strings.Contains(k, "/") || n < 1 || n > maxDevices {
			p.Add(at+"/devices/"+escapePointer(k), "must be an extended resource such as nvidia.com/gpu, and 1 to %d of it", maxDevices)
		}
	}
	p.resources(at+"/requests", pod.Requests)
	p.volume(at+"/volume", pod.Volume)
	p.marks(at, pod)
	p.around(at, pod)
}

func (p *problems) object(pointer, name string) {
	if len(name) > maxNameBytes || name != "" && !objectName.MatchString(name) {
		p.Add(pointer, "is no name of an object of Kubernetes")
	}
}

func (p *problems) volume(pointer string, v *api.Volume) {
	if v == nil {
		return
	}
	if v.Bytes < minVolume {
		p.Add(pointer+"/bytes", "must be at least %d", minVolume)
	}
	p.object(pointer+"/storage_class", v.StorageClass)
}

// marks checks labels and annotations. They get a prefix, so they have none of their own.
func (p *problems) marks(at string, pod api.Pod) {
	for _, k := range slices.Sorted(maps.Keys(pod.Labels)) {
		if !plainName.MatchString(k) || !labelValue.MatchString(pod.Labels[k]) {
			p.Add(at+"/labels/"+escapePointer(k), "is no label: key and value are at most 63 of letters, digits, '-', '_' and '.'")
		}
	}
	size := 0
	for _, k := range slices.Sorted(maps.Keys(pod.Annotations)) {
		size += len(k) + len(pod.Annotations[k])
		if !plainName.MatchString(k) {
			p.Add(at+"/annotations/"+escapePointer(k), "is no annotation: a key is at most 63 of letters, digits, '-', '_' and '.'")
		}
	}
	if size > maxPodText {
		p.Add(at+"/annotations", "are %d bytes in all; at most %d are allowed", size, maxPodText)
	}
}

func validQualified(k string) bool { return len(k) <= maxNameBytes+64 && labelName.MatchString(k) }
