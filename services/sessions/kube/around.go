package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

// What is around a pod, where its profile asks for it: a ConfigMap with the session's files and the collector's configuration, a NetworkPolicy
// with what the pod may reach and who may reach it, and a Service that gives the session a name. All of it is made after the pod and owned
// by it, so that the cluster removes it with the pod, whoever removes that. A kubelet that is faster waits for the
// ConfigMap; a pod without its policy may less, not more.

const (
	configDir   = "/etc/agentyard"              // where agents find their profile's files
	filePrefix  = "file."                       // of their keys in the ConfigMap, beside the collector's
	aroundNote  = "agentyard.dev/around"        // annotation: what is around a pod, so that a pod of a pool that has something else is told apart
	runsService = "kubernetes.io/metadata.name" // label of a namespace: its name
)

// around is what a pod has beside itself, as the cluster is told.
type around struct {
	files  map[string]string // of the ConfigMap; empty: none
	policy *networkingv1.NetworkPolicySpec
	ports  []int // of the Service; empty: none
}

// aroundOf returns what is around the pods of a profile. It fails with invalid when the yard's operator does not permit it.
func (r *Runtime) aroundOf(p launch.Pod) (around, error) {
	a := around{files: map[string]string{}}
	for name, text := range p.Config {
		a.files[filePrefix+name] = text
	}
	if p.Collector {
		if !r.collects() {
			return a, api.Errorf(api.CodeInvalid, "this yard has no collector for agents' metrics: its operator sets -kube.collector-image and -kube.collector-endpoint")
		}
		a.files[collectorFile] = r.collectorConfig()
	}
	if p.Service != nil {
		a.ports = p.Service.Ports
	}
	rules, err := r.grants(p.Egress)
	if err != nil || !r.cfg.NetworkPolicies {
		return a, err
	}
	if len(rules) == 0 && p.Service == nil {
		return a, nil
	}
	a.policy = &networkingv1.NetworkPolicySpec{Egress: rules}
	if len(rules) > 0 {
		a.policy.PolicyTypes = append(a.policy.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	if p.Service != nil {
		a.policy.PolicyTypes = append(a.policy.PolicyTypes, networkingv1.PolicyTypeIngress)
		in := networkingv1.NetworkPolicyIngressRule{Ports: tcp(p.Service.Ports)}
		for _, namespace := range p.Service.Namespaces {
			in.From = append(in.From, networkingv1.NetworkPolicyPeer{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{runsService: namespace}},
			})
		}
		a.policy.Ingress = []networkingv1.NetworkPolicyIngressRule{in}
	}
	return a, nil
}

// refuses implements sessions.RuntimeInfo.Refuses.
func (r *Runtime) refuses(p api.Pod) string {
	if _, err := r.aroundOf(launch.Pod{Pod: p}); err != nil {
		return api.Redact(err).Detail
	}
	return ""
}

// grants returns the egress rules of a profile, without the networks that no profile opens.
func (r *Runtime) grants(of []api.EgressRule) ([]networkingv1.NetworkPolicyEgressRule, error) {
	never, err := r.cfg.never()
	if err != nil {
		return nil, err
	}
	var rules []networkingv1.NetworkPolicyEgressRule
	for _, rule := range of {
		block, err := block(rule, never)
		if err != nil {
			return nil, err
		}
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{IPBlock: block}}, Ports: tcp(rule.Ports)})
	}
	return rules, nil
}

// never parses Config.EgressNever.
func (c Config) never() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range strings.Split(c.EgressNever, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		n, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "-kube.egress-never: %q is no network", text)
		}
		out = append(out, n.Masked())
	}
	return out, nil
}

// block returns the addresses that a rule opens.
func block(rule api.EgressRule, never []netip.Prefix) (*networkingv1.IPBlock, error) {
	open, err := netip.ParsePrefix(rule.CIDR)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%q is no network", rule.CIDR)
	}
	out := &networkingv1.IPBlock{CIDR: rule.CIDR, Except: slices.Clone(rule.Except)}
	for _, n := range never {
		switch {
		case n.Bits() <= open.Bits() && n.Contains(open.Addr()):
			return nil, api.Errorf(api.CodeInvalid, "no profile of this yard may open %s, which is in %s", open, n)
		case open.Contains(n.Addr()) && !slices.Contains(out.Except, n.String()):
			out.Except = append(out.Except, n.String())
		}
	}
	return out, nil
}

func tcp(ports []int) []networkingv1.NetworkPolicyPort {
	var out []networkingv1.NetworkPolicyPort
	for _, n := range ports {
		protocol, number := corev1.ProtocolTCP, intstr.FromInt32(int32(n))
		out = append(out, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &number})
	}
	return out
}

// empty reports whether there is nothing around a pod.
func (a around) empty() bool { return len(a.files) == 0 && a.policy == nil && len(a.ports) == 0 }

// surround adds to a pod's manifest what refers to things around it. They are named after the id with which the pod asks to be bound.
func (r *Runtime) surround(p *corev1.Pod, g generic, secure *corev1.SecurityContext) {
	a, err := r.aroundOf(g.pod)
	if err != nil || a.empty() {
		return // an error is told by who makes what is around it
	}
	text, _ := json.Marshal(map[string]any{"files": a.files, "policy": a.policy, "ports": a.ports}) // of these it has no error
	sum := sha256.Sum256(text)
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[aroundNote] = hex.EncodeToString(sum[:8])
	volume := func(name string, items []corev1.KeyToPath) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: g.id}, Items: items,
		}}})
	}
	var items []corev1.KeyToPath
	for _, name := range slices.Sorted(maps.Keys(g.pod.Config)) {
		items = append(items, corev1.KeyToPath{Key: filePrefix + name, Path: name})
	}
	if len(items) > 0 {
		volume("config", items)
		mounts := &p.Spec.Containers[0].VolumeMounts
		*mounts = append(*mounts, corev1.VolumeMount{Name: "config", MountPath: configDir, ReadOnly: true})
	}
	if g.pod.Collector {
		volume("collector", []corev1.KeyToPath{{Key: collectorFile, Path: collectorFile}})
		p.Annotations[targetsNote] = noTargets // until there is a session
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "targets", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			Items: []corev1.DownwardAPIVolumeFile{{Path: targetsFile, FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['" + targetsNote + "']"}}},
		}}})
		p.Labels[labelCollector] = "true"
		p.Spec.InitContainers = append(p.Spec.InitContainers, r.collector(g, secure))
	}
}

// complete makes what is around the pod of an incarnation, unless this process has done so. It is asked again until it succeeds.
func (r *Runtime) complete(ctx context.Context, l launch.Launch) error {
	a, err := r.aroundOf(l.Pod)
	if err != nil || a.empty() {
		return err
	}
	var of *pod
	done := false
	r.mu.Lock()
	for _, p := range r.pods.of[l.Session] {
		if p.Incarnation == l.Incarnation {
			of, done = p, p.attended
		}
	}
	r.mu.Unlock()
	if of == nil || done { // one that is gone has nothing around it
		return nil
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: of.name, UID: types.UID(of.uid), Labels: map[string]string{
		labelSession: l.Session, labelTenant: l.Tenant, labelProfile: l.Pod.Profile, labelPod: of.id,
	}}}
	client := r.shard(l.Session)
	if err := r.attend(ctx, client, p, l.Pod); err != nil {
		return r.refuse(l.Session, err, "make what is around its pod")
	}
	if err := r.name(ctx, client, p, l.Session, l.Pod); err != nil {
		return r.refuse(l.Session, err, "make what is around its pod")
	}
	r.mu.Lock()
	of.attended = true
	r.mu.Unlock()
	return nil
}

// attend makes what is around a pod that was made. What is there already is success.
func (r *Runtime) attend(ctx context.Context, client kubernetes.Interface, p *corev1.Pod, spec launch.Pod) error {
	a, err := r.aroundOf(spec)
	if err != nil || a.empty() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id := p.Labels[labelPod]
	meta := metav1.ObjectMeta{
		Namespace: r.cfg.Namespace, Name: id, Labels: r.ownLabels(p),
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}},
	}
	options := metav1.CreateOptions{FieldManager: managedBy}
	if len(a.files) > 0 {
		fixed := true
		_, err := client.CoreV1().ConfigMaps(r.cfg.Namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Immutable: &fixed, Data: a.files}, options)
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make its configuration: %w", err)
		}
	}
	if a.policy != nil {
		a.policy.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{labelPod: id, labelInstance: r.cfg.Instance}}
		_, err := client.NetworkingV1().NetworkPolicies(r.cfg.Namespace).Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: meta, Spec: *a.policy}, options)
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make its network policy: %w", err)
		}
	}
	return nil
}

// name gives a session its name in the cluster: a Service of its own, which always has the pod that the session has. It is applied, for the one of the pod before
// may still be there.
func (r *Runtime) name(ctx context.Context, client kubernetes.Interface, p *corev1.Pod, session string, spec launch.Pod) error {
	if spec.Service == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := coreapply.ServiceSpec().WithClusterIP(corev1.ClusterIPNone).WithPublishNotReadyAddresses(true).
		WithSelector(map[string]string{labelSession: session, labelInstance: r.cfg.Instance})
	for _, n := range spec.Service.Ports {
		s.WithPorts(coreapply.ServicePort().WithName("port-" + strconv.Itoa(n)).WithPort(int32(n)).WithProtocol(corev1.ProtocolTCP))
	}
	service := &coreapply.ServiceApplyConfiguration{TypeMetaApplyConfiguration: *metaapply.TypeMeta().WithKind("Service").WithAPIVersion("v1")}
	service.WithName(session).WithNamespace(r.cfg.Namespace).WithLabels(r.ownLabels(p)).WithSpec(s).
		WithOwnerReferences(metaapply.OwnerReference().WithAPIVersion("v1").WithKind("Pod").WithName(p.Name).WithUID(p.UID))
	_, err := client.CoreV1().Services(r.cfg.Namespace).Apply(ctx, service, metav1.ApplyOptions{FieldManager: managedBy, Force: true})
	if err != nil {
		return fmt.Errorf("give it a name: %w", err)
	}
	return nil
}

// ownLabels are those by which the yard finds what is around a pod: the pod's own, of which a user sets none.
func (r *Runtime) ownLabels(p *corev1.Pod) map[string]string {
	labels := map[string]string{labelName: podName, labelManagedBy: managedBy, labelInstance: r.cfg.Instance}
	for _, l := range []string{labelSession, labelTenant, labelProfile, labelPod} {
		if v := p.Labels[l]; v != "" {
			labels[l] = v
		}
	}
	return labels
}
