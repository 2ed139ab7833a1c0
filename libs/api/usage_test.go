package api

import "testing"

func TestUsagePlus(t *testing.T) {
	one, two := 0.5, 0.25
	bytes := int64(7)
	a, b := Usage{InputTokens: 1, OutputTokens: 2, CostUSD: &one}, Usage{InputTokens: 10, OutputTokens: 20, CostUSD: &two, NetworkRxBytes: &bytes}
	got := a.Plus(b)
	if got.InputTokens != 11 || got.OutputTokens != 22 || *got.CostUSD != 0.75 || *got.NetworkRxBytes != 7 || got.NetworkTxBytes != nil || got.CPUSeconds != nil {
		t.Errorf("%+v", got)
	}
	if *a.CostUSD != 0.5 || *b.CostUSD != 0.25 {
		t.Error("what was added has changed")
	}
}
