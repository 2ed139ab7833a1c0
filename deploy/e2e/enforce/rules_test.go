package enforce

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(namespace, name, node, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		}}},
		Status: corev1.PodStatus{PodIP: ip, Phase: corev1.PodRunning},
	}
}

func space(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}}
}

func selector(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

func TestRules(t *testing.T) {
	port, http, last := intstr.FromInt32(4222), intstr.FromString("http"), int32(8000)
	first, udp := intstr.FromInt32(7000), corev1.ProtocolUDP
	w := World{
		Pods:       []*corev1.Pod{pod("b", "bus", "n2", "10.0.2.1"), pod("a", "web", "n1", "10.0.1.1"), pod("a", "free", "n1", "10.0.1.2"), pod("a", "gone", "n1", "")},
		Namespaces: []*corev1.Namespace{space("a"), space("b")},
		Policies: []*networkingv1.NetworkPolicy{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: *selector("app", "web"),
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
				Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &http}}},
					{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selector("app", "free")}}}},
				Egress: []networkingv1.NetworkPolicyEgressRule{
					{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: selector("name", "b"), PodSelector: selector("app", "bus")}},
						Ports: []networkingv1.NetworkPolicyPort{{Port: &port}, {Port: &first, EndPort: &last, Protocol: &udp}}},
					{To: []networkingv1.NetworkPolicyPeer{{PodSelector: selector("app", "bus")}}}, // of its own namespace: nobody
					{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.128/25"}}}}},
				},
			},
		}},
	}
	const want = `table inet policies
delete table inet policies
table inet policies {
  chain out_10_0_1_1 { # a/web
    ip daddr { 10.0.2.1 } tcp dport 4222 return
    ip daddr { 10.0.2.1 } udp dport 7000-8000 return
    ip daddr 192.0.2.0/24 ip daddr != { 192.0.2.128/25 } return
    reject with icmpx admin-prohibited
  }
  chain in_10_0_1_1 { # a/web
    tcp dport 8080 return
    ip saddr { 10.0.1.2 } return
    reject with icmpx admin-prohibited
  }
  chain egress {
    ip saddr vmap { 10.0.1.1 : goto out_10_0_1_1 }
  }
  chain ingress {
    ip daddr vmap { 10.0.1.1 : goto in_10_0_1_1 }
  }
`
	got := w.Rules("n1")
	if !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if other := w.Rules("n2"); strings.Contains(other, "goto") {
		t.Errorf("the other node has no pod with a policy:\n%s", other)
	}
}
