// Package dag orders things that depend on each other.
package dag

import (
	"fmt"
	"slices"
	"strings"
)

// CycleError says that things depend on themselves, by naming the cycle: each depends on the next, and the last on the first.
type CycleError struct{ Names []string }

func (e *CycleError) Error() string {
	return fmt.Sprintf("they depend on each other in a circle: %s → %s", strings.Join(e.Names, " → "), e.Names[0])
}

// Order returns the indexes 0 … len(needs)-1 so that each comes after all in needs[i], otherwise in their own order; name is asked for a [CycleError]
// only. It takes time linear in the number of things and dependencies, and panics for an index out of range.
func Order(needs [][]int, name func(int) string) ([]int, error) {
	// Kahn's algorithm; what is left over lies on a cycle or behind one.
	open := make([]int, len(needs))
	wanted := make([][]int, len(needs))
	for i, list := range needs {
		for _, j := range list {
			wanted[j] = append(wanted[j], i)
			open[i]++
		}
	}
	order := make([]int, 0, len(needs))
	for i, n := range open {
		if n == 0 {
			order = append(order, i)
		}
	}
	for at := 0; at < len(order); at++ {
		for _, i := range wanted[order[at]] {
			if open[i]--; open[i] == 0 {
				order = append(order, i)
			}
		}
	}
	if len(order) == len(needs) {
		return order, nil
	}
	return nil, &CycleError{Names: cycle(needs, open, name)}
}

// cycle walks from any thing that is left over to what it needs, which is left over too, until it has been there.
func cycle(needs [][]int, open []int, name func(int) string) []string {
	at := slices.IndexFunc(open, func(n int) bool { return n > 0 })
	place := map[int]int{}
	var path []int
	for {
		if from, been := place[at]; been {
			path = path[from:]
			break
		}
		place[at] = len(path)
		path = append(path, at)
		at = needs[at][slices.IndexFunc(needs[at], func(j int) bool { return open[j] > 0 })]
	}
	names := make([]string, len(path))
	for i, p := range path {
		names[i] = name(p)
	}
	return names
}
