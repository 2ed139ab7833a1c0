package sessions

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"unicode/utf8"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

const (
	// maxConfigBytes bounds a profile's files together: each session's record has them.
	maxConfigBytes = 16 << 10
	maxNetworks    = 16 // of one rule
	maxPorts       = 16
)

// around checks what a profile wants to be around its pods.
func (p *problems) around(at string, pod api.Pod) {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(pod.Config)) {
		size += len(pod.Config[name])
		if !plainName.MatchString(name) || !utf8.ValidString(pod.Config[name]) {
			p.Add(at+"/config/"+escapePointer(name), "is no text file with a name of at most 63 letters, digits, '-', '_' and '.'")
		}
	}
	if size > maxConfigBytes {
		p.Add(at+"/config", "are %d bytes in all; at most %d are allowed", size, maxConfigBytes)
	}
	for i, rule := range pod.Egress {
		p.egress(at+"/egress/"+strconv.Itoa(i), rule)
	}
	if s := pod.Service; s != nil {
		if len(s.Ports) == 0 {
			p.Add(at+"/service/ports", "is required")
		}
		p.ports(at+"/service/ports", s.Ports)
		if slices.Contains(s.Ports, launch.PodPort) {
			p.Add(at+"/service/ports", "%d is the runner's own", launch.PodPort)
		}
		if len(s.Namespaces) == 0 || len(s.Namespaces) > maxNetworks {
			p.Add(at+"/service/namespaces", "must be 1 to %d namespaces", maxNetworks)
		}
		for i, name := range s.Namespaces {
			if name == "" || len(name) > 63 || !objectName.MatchString(name) {
				p.Add(at+"/service/namespaces/"+strconv.Itoa(i), "is no name of a namespace")
			}
		}
	}
}

func (p *problems) egress(at string, rule api.EgressRule) {
	within, err := netip.ParsePrefix(rule.CIDR)
	if err != nil || within != within.Masked() {
		p.Add(at+"/cidr", "is no network such as 192.0.2.0/24")
		return
	}
	if len(rule.Except) > maxNetworks {
		p.Add(at+"/except", "has %d networks; at most %d are allowed", len(rule.Except), maxNetworks)
		return
	}
	for i, text := range rule.Except {
		n, err := netip.ParsePrefix(text)
		if err != nil || n != n.Masked() || n.Bits() <= within.Bits() || !within.Contains(n.Addr()) {
			p.Add(at+"/except/"+strconv.Itoa(i), "is no network within %s", within)
		}
	}
	p.ports(at+"/ports", rule.Ports)
}

func (p *problems) ports(at string, ports []int) {
	if len(ports) > maxPorts {
		p.Add(at, "has %d ports; at most %d are allowed", len(ports), maxPorts)
		return
	}
	for i, n := range ports {
		if n < 1 || n > 65535 || slices.Contains(ports[:i], n) {
			p.Add(at+"/"+strconv.Itoa(i), "is no port, or is given twice")
		}
	}
}
