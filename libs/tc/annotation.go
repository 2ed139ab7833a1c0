package tc

import (
	"fmt"
	"math/big"
	"strings"
)

// The annotations with which Kubernetes' bandwidth plugin limits a pod. They are the lowest tier: policies and they meet like policies do,
// the smallest ceiling wins.
const (
	IngressAnnotation = "kubernetes.io/ingress-bandwidth" // download
	EgressAnnotation  = "kubernetes.io/egress-bandwidth"  // upload
)

// parseQuantity reads a Kubernetes quantity of bits per second: "10M", "1Gi", "1e6".
func parseQuantity(s string) (BitsPerSecond, error) {
	end := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	number, suffix := s, ""
	if end >= 0 {
		number, suffix = s[:end], s[end:]
	}
	scale, known := map[string]string{
		"": "1", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12", "P": "1e15",
		"Ki": "1024", "Mi": "1048576", "Gi": "1073741824", "Ti": "1099511627776", "Pi": "1125899906842624",
	}[suffix]
	if !known && len(suffix) >= 2 && len(suffix) <= 3 && (suffix[0] == 'e' || suffix[0] == 'E') && strings.Trim(suffix[1:], "0123456789") == "" {
		scale, known = "1"+suffix, len(suffix) == 2 || suffix[1] == '0' || suffix[1] == '1'
	}
	value, ok := new(big.Rat).SetString(number)
	factor, scaled := new(big.Rat).SetString(scale)
	if !known || !ok || !scaled || len(number) > 20 {
		return 0, fmt.Errorf("%q is not a quantity such as 10M", s)
	}
	value.Mul(value, factor)
	whole := new(big.Int).Quo(value.Num(), value.Denom())
	if !whole.IsUint64() || whole.Uint64() < uint64(MinRate) || whole.Uint64() > uint64(MaxRate) {
		return 0, fmt.Errorf("%q is not between %s and %s", s, MinRate, MaxRate)
	}
	return BitsPerSecond(whole.Uint64()), nil
}

// annotated is the policy that a pod's annotations are, and what is wrong with them. Not ok: there are none.
func annotated(s Session) (p Policy, wrong []string, ok bool) {
	for _, d := range directions {
		name, rate := IngressAnnotation, &p.Link.Download
		if d == Upload {
			name, rate = EgressAnnotation, &p.Link.Upload
		}
		text, found := s.Annotations[name]
		if !found {
			continue
		}
		r, err := parseQuantity(text)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("annotation %s is ignored: %v", name, err))
			continue
		}
		rate.Ceiling, ok = r, true
	}
	p.Name = "kubernetes.io annotations"
	return p, wrong, ok
}
