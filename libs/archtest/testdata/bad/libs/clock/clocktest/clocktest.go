// Package clocktest is test code too.
package clocktest

import (
	"testing"
	"time"
)

func Wait(t *testing.T) { time.Sleep(1) }
