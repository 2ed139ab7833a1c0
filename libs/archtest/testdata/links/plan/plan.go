// Package plan imports what its users must not link.
package plan

import _ "k8s.io/client-go/kubernetes"
