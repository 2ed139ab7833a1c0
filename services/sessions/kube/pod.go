package kube

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
)

// pod is what is known of one pod.
type pod struct {
	sessions.Instance
	name  string
	uid   string
	id    string // by which it asks to be bound
	node  string
	ended bool      // told, or about to be
	since time.Time // when it ended
	// deleted is when the cluster was told to delete it; of one whose node does not answer that comes to nothing.
	deleted  time.Time
	stopping bool // we deleted it
	holdup   string
	attended bool          // what is around it was made
	why      string        // how it seems to end, before it has
	gone     chan struct{} // closed when it is no more
}

// identify reads which session a pod is of, from its labels; false for one that is nobody's yet or somebody else's.
func identify(labels map[string]string) (sessions.Instance, bool) {
	n, err := strconv.Atoi(labels[labelIncarnation])
	i := sessions.Instance{Ref: sessions.Ref{Tenant: labels[labelTenant], Session: labels[labelSession]}, Incarnation: n}
	return i, err == nil && n > 0 && api.ValidName(i.Tenant) && api.ValidID(api.KindSession, i.Session)
}

// strip is the watch's transform: of each pod only what this package reads stays in memory.
func strip(obj any) (any, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	labels := map[string]string{}
	waits := p.Labels[labelPool] == poolFree // of those more is read
	for _, name := range []string{labelSession, labelTenant, labelIncarnation, labelPod, labelPool, labelProfile} {
		if name == labelProfile && !waits {
			continue
		}
		if v, ok := p.Labels[name]; ok {
			labels[name] = v
		}
	}
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion, Labels: labels, DeletionTimestamp: p.DeletionTimestamp,
			DeletionGracePeriodSeconds: p.DeletionGracePeriodSeconds,
		},
		Spec:   corev1.PodSpec{NodeName: p.Spec.NodeName},
		Status: corev1.PodStatus{Phase: p.Status.Phase, Reason: p.Status.Reason, Message: p.Status.Message},
	}
	if waits {
		out.CreationTimestamp, out.Annotations = p.CreationTimestamp, map[string]string{shapeNote: p.Annotations[shapeNote]}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled || c.Type == corev1.DisruptionTarget || waits && c.Type == corev1.PodReady {
			out.Status.Conditions = append(out.Status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
		}
	}
	bare := func(of []corev1.ContainerStatus) (list []corev1.ContainerStatus) {
		for _, c := range of {
			list = append(list, corev1.ContainerStatus{Name: c.Name, State: c.State})
		}
		return list
	}
	out.Status.ContainerStatuses = bare(p.Status.ContainerStatuses)
	out.Status.InitContainerStatuses = bare(p.Status.InitContainerStatuses)
	return out, nil
}

// endOf says how a pod ended, and false while its runner may still run.
func endOf(p *corev1.Pod) (reason string, ended bool) {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == container && c.State.Terminated != nil {
			return withDisruption(p, terminated(c.State.Terminated)), true
		}
	}
	if p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
		return "", false
	}
	for _, c := range p.Status.InitContainerStatuses {
		if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
			return "its init container " + c.Name + ": " + terminated(t), true
		}
	}
	return withDisruption(p, "its pod ended"), true
}

// terminated says how a container ended and what it last said.
func terminated(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("it ended with exit status %d", t.ExitCode)
	switch {
	case t.Reason == "OOMKilled":
		text = "it used more memory than its limit (OOMKilled)"
	case t.Signal != 0:
		text = fmt.Sprintf("it was ended by signal %d", t.Signal)
	case t.ExitCode == 128+9: // as runtimes say that it was killed
		text = "it was killed (exit status 137)"
	case t.Reason != "" && t.Reason != "Error" && t.Reason != "Completed": // ContainerCannotRun, StartError
		text = "its container: " + t.Reason
	}
	if said := lastLines(t.Message); said != "" {
		text += ": " + said
	}
	return text
}

// disruptions are what ends pods from outside, in words (pod conditions, Kubernetes documentation on disruptions).
var disruptions = map[string]string{
	"PreemptionByScheduler":  "its pod made room for one of higher priority",
	"DeletionByTaintManager": "its node does not answer or is being emptied",
	"EvictionByEvictionAPI":  "its pod was evicted",
	"DeletionByPodGC":        "its node is gone",
	"TerminationByKubelet":   "its node ended it",
}

// withDisruption puts in front of how a pod ended what ended it, if that was not itself.
func withDisruption(p *corev1.Pod, how string) string {
	var causes []string
	for _, c := range p.Status.Conditions {
		if c.Type != corev1.DisruptionTarget || c.Status != corev1.ConditionTrue {
			continue
		}
		text := disruptions[c.Reason]
		if text == "" {
			text = c.Reason
		}
		causes = append(causes, join(text, c.Message))
	}
	if p.Status.Reason != "" { // Evicted, NodeLost, OutOfcpu, UnexpectedAdmissionError, …
		causes = append(causes, join(p.Status.Reason, p.Status.Message))
	}
	if len(causes) == 0 {
		return how
	}
	return strings.Join(append(causes, how), "; ")
}

func join(reason, message string) string {
	if message = lastLines(message); message == "" {
		return reason
	}
	return reason + ": " + message
}

// holdupOf says what keeps a pod from running, "" when nothing is known to.
func holdupOf(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return join("no node takes it", c.Message)
		}
	}
	for _, c := range append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		w := c.State.Waiting
		if w == nil || w.Reason == "" || w.Reason == "ContainerCreating" || w.Reason == "PodInitializing" {
			continue
		}
		if strings.Contains(w.Reason, "Image") {
			return join("its image cannot be had: "+w.Reason, w.Message)
		}
		return join("its container cannot be made: "+w.Reason, w.Message)
	}
	return ""
}

const (
	mostLines = 3
	mostBytes = 1500
)

// lastLines returns the end of what a program said, for a person.
func lastLines(text string) string {
	text = strings.TrimSpace(strings.ToValidUTF8(text, "?"))
	if len(text) > mostBytes {
		text = strings.ToValidUTF8(text[len(text)-mostBytes:], "")
	}
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-mostLines):], "\n")
}
