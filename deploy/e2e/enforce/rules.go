// Package enforce applies NetworkPolicies to the pods of the tests' cluster, whose bridge does not: it follows pods, namespaces and
// policies and writes each node's nftables anew whenever what they come to has changed.
//
// It knows podSelector, namespaceSelector, ipBlock with except, ports by number, range and name, ingress and egress. What a policy does not
// let through is refused with an ICMP error, so that a test sees at once what a pod cannot reach. Between the start of a pod
// and the moment when its address is known nothing is enforced.
package enforce

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// World is what rules are made from.
type World struct {
	Pods       []*corev1.Pod
	Namespaces []*corev1.Namespace
	Policies   []*networkingv1.NetworkPolicy
}

// Rules returns the nftables of a node, for "nft -f". The same world gives the same text.
//
// Packets are seen after the addresses of services have been translated. An egress rule is applied where the pod is, an ingress rule where
// the pod is; a connection within a node passes both.
func (w World) Rules(node string) string {
	var chains strings.Builder
	var out, in []string
	pods := slices.Clone(w.Pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	w.Pods = pods
	for _, p := range pods {
		if p.Spec.NodeName != node || !addressed(p) {
			continue
		}
		ip := p.Status.PodIP
		suffix := strings.ReplaceAll(ip, ".", "_")
		if rules, isolated := w.egress(p); isolated {
			out = append(out, ip+" : goto out_"+suffix)
			chain(&chains, "out_"+suffix, p, rules)
		}
		if rules, isolated := w.ingress(p); isolated {
			in = append(in, ip+" : goto in_"+suffix)
			chain(&chains, "in_"+suffix, p, rules)
		}
	}
	var b strings.Builder
	b.WriteString("table inet policies\ndelete table inet policies\ntable inet policies {\n")
	b.WriteString(chains.String())
	dispatch(&b, "egress", "ip saddr", out)
	dispatch(&b, "ingress", "ip daddr", in)
	b.WriteString("  chain forward {\n    type filter hook forward priority filter; policy accept;\n" +
		"    ct state established,related accept\n    jump egress\n    jump ingress\n  }\n")
	// A pod's way to its own node. What the node sends to its pods, such as probes, passes.
	b.WriteString("  chain input {\n    type filter hook input priority filter; policy accept;\n" +
		"    ct state established,related accept\n    jump egress\n  }\n}\n")
	return b.String()
}

func dispatch(b *strings.Builder, name, field string, to []string) {
	fmt.Fprintf(b, "  chain %s {\n", name)
	if len(to) > 0 {
		fmt.Fprintf(b, "    %s vmap { %s }\n", field, strings.Join(to, ", "))
	}
	b.WriteString("  }\n")
}

func chain(b *strings.Builder, name string, p *corev1.Pod, rules []string) {
	fmt.Fprintf(b, "  chain %s { # %s/%s\n", name, p.Namespace, p.Name)
	for _, r := range rules {
		fmt.Fprintf(b, "    %s return\n", r)
	}
	b.WriteString("    reject with icmpx admin-prohibited\n  }\n")
}

func (w World) egress(p *corev1.Pod) (rules []string, isolated bool) {
	for _, policy := range w.of(p, networkingv1.PolicyTypeEgress) {
		isolated = true
		for _, e := range policy.Spec.Egress {
			for _, to := range w.peers(policy.Namespace, e.To, "ip daddr") {
				// A named port means what the pod that is reached calls so; none of the charts' egress has one.
				rules = append(rules, with(to, ports(e.Ports, nil))...)
			}
		}
	}
	return rules, isolated
}

func (w World) ingress(p *corev1.Pod) (rules []string, isolated bool) {
	for _, policy := range w.of(p, networkingv1.PolicyTypeIngress) {
		isolated = true
		for _, i := range policy.Spec.Ingress {
			for _, from := range w.peers(policy.Namespace, i.From, "ip saddr") {
				rules = append(rules, with(from, ports(i.Ports, p))...)
			}
		}
	}
	return rules, isolated
}

// of returns the policies of one kind that select a pod, by name.
func (w World) of(p *corev1.Pod, kind networkingv1.PolicyType) []*networkingv1.NetworkPolicy {
	var list []*networkingv1.NetworkPolicy
	for _, policy := range w.Policies {
		if policy.Namespace == p.Namespace && slices.Contains(policy.Spec.PolicyTypes, kind) && selects(&policy.Spec.PodSelector, p.Labels) {
			list = append(list, policy)
		}
	}
	slices.SortFunc(list, func(a, b *networkingv1.NetworkPolicy) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// peers returns matches of the addresses of peers; [""] is every address, none is nobody.
func (w World) peers(namespace string, peers []networkingv1.NetworkPolicyPeer, field string) []string {
	if len(peers) == 0 {
		return []string{""}
	}
	var matches []string
	addresses := map[string]bool{}
	for _, peer := range peers {
		if block := peer.IPBlock; block != nil {
			match := field + " " + block.CIDR
			if len(block.Except) > 0 {
				match += " " + field + " != { " + strings.Join(block.Except, ", ") + " }"
			}
			matches = append(matches, match)
			continue
		}
		for _, p := range w.Pods {
			if !addressed(p) || peer.NamespaceSelector == nil && p.Namespace != namespace ||
				peer.NamespaceSelector != nil && !selects(peer.NamespaceSelector, w.labels(p.Namespace)) ||
				peer.PodSelector != nil && !selects(peer.PodSelector, p.Labels) {
				continue
			}
			addresses[p.Status.PodIP] = true
		}
	}
	if len(addresses) > 0 {
		matches = append(matches, field+" { "+strings.Join(slices.Sorted(maps.Keys(addresses)), ", ")+" }")
	}
	return matches
}

func (w World) labels(namespace string) map[string]string {
	for _, n := range w.Namespaces {
		if n.Name == namespace {
			return n.Labels
		}
	}
	return nil
}

// ports returns matches of ports; [""] is every port, none is one that nobody has. of is whose names are meant.
func ports(list []networkingv1.NetworkPolicyPort, of *corev1.Pod) []string {
	if len(list) == 0 {
		return []string{""}
	}
	var matches []string
	for _, p := range list {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		name := strings.ToLower(string(protocol))
		switch {
		case p.Port == nil:
			matches = append(matches, "meta l4proto "+name)
		case p.Port.Type == intstr.Int && p.EndPort != nil:
			matches = append(matches, fmt.Sprintf("%s dport %d-%d", name, p.Port.IntVal, *p.EndPort))
		case p.Port.Type == intstr.Int:
			matches = append(matches, fmt.Sprintf("%s dport %d", name, p.Port.IntVal))
		case of != nil:
			for _, c := range of.Spec.Containers {
				for _, named := range c.Ports {
					if named.Name == p.Port.StrVal {
						matches = append(matches, name+" dport "+strconv.Itoa(int(named.ContainerPort)))
					}
				}
			}
		}
	}
	return matches
}

func with(peer string, ports []string) []string {
	var rules []string
	for _, port := range ports {
		rules = append(rules, strings.TrimSpace(peer+" "+port))
	}
	return rules
}

// addressed reports whether a pod has an address of its own that is in use.
func addressed(p *corev1.Pod) bool {
	return p.Status.PodIP != "" && !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// selects says false for a selector that cannot be read; the API server takes none such.
func selects(selector *metav1.LabelSelector, have map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(have))
}
