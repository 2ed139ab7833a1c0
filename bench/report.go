package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// report prints figures as they come.
type report struct {
	w            io.Writer
	file         *os.File
	held, missed int
}

func newReport(path string) *report {
	r := &report{w: os.Stdout}
	if path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) //nolint:gosec // figures are for all to read
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: -out:", err)
			os.Exit(2)
		}
		r.file, r.w = f, io.MultiWriter(os.Stdout, f)
	}
	return r
}

func (r *report) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// figure is one line: what we measured, what it is compared with, and the goal.
type figure struct {
	name      string
	ours      string
	reference string // with what it is
	ratio     float64
	goal      string
	held      bool
}

func (r *report) add(f figure) {
	verdict := "missed"
	if f.held {
		verdict = "held"
		r.held++
	} else {
		r.missed++
	}
	ratio := "—"
	if f.ratio != 0 {
		ratio = fmt.Sprintf("%.2f×", f.ratio)
	}
	fmt.Fprintf(r.w, "%-44s ours %-14s reference %-34s ratio %-8s goal %-22s %s\n", f.name, f.ours, f.reference, ratio, f.goal, verdict)
}

// percentile returns the p-th percentile (0–100) of ds.
func percentile(ds []time.Duration, p float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Clone(ds)
	slices.Sort(sorted)
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*p/100))]
}

func median(ds []time.Duration) time.Duration { return percentile(ds, 50) }

func ms(d time.Duration) string { return fmt.Sprintf("%.3f ms", float64(d)/float64(time.Millisecond)) }

func perSecond(v float64) string { return fmt.Sprintf("%.0f/s", v) }

func medianFloat(vs []float64) float64 {
	sorted := slices.Clone(vs)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}
