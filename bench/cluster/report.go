package main

import (
	"fmt"
	"slices"
	"time"
)

// report prints figures as they come, in bench's form.
type report struct{ held, missed int }

// figure is one line: what we measured, what it is compared with, and the goal.
type figure struct {
	name      string
	ours      string
	reference string // with what it is
	ratio     float64
	goal      string // empty: it is told only
	held      bool
}

func (r *report) add(f figure) {
	verdict := "missed"
	switch {
	case f.goal == "":
		f.goal, verdict = "—", "told"
	case f.held:
		verdict = "held"
		r.held++
	default:
		r.missed++
	}
	ratio := "—"
	if f.ratio != 0 {
		ratio = fmt.Sprintf("%.2f×", f.ratio)
	}
	fmt.Printf("%-44s ours %-14s reference %-34s ratio %-8s goal %-22s %s\n", f.name, f.ours, f.reference, ratio, f.goal, verdict)
}

// percentile returns the p-th percentile (0–100) of ds.
func percentile(ds []time.Duration, p float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*p/100))]
}

func median(ds []time.Duration) time.Duration { return percentile(ds, 50) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

func perSecond(v float64) string { return fmt.Sprintf("%.1f/s", v) }

func middle(vs []float64) float64 {
	sorted := slices.Sorted(slices.Values(vs))
	return sorted[len(sorted)/2]
}
