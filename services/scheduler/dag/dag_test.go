package dag

import (
	"errors"
	"slices"
	"strconv"
	"testing"
)

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		name  string
		needs [][]int
		order []int
		cycle []string
	}{
		{"nothing", nil, []int{}, nil},
		{"independent ones keep their order", [][]int{{}, {}, {}}, []int{0, 1, 2}, nil},
		{"a diamond", [][]int{{1, 2}, {3}, {3}, {}}, []int{3, 1, 2, 0}, nil},
		{"the same one twice", [][]int{{1, 1}, {}}, []int{1, 0}, nil},
		{"itself", [][]int{{}, {1}}, nil, []string{"1"}},
		{"a circle behind others", [][]int{{1}, {2}, {3}, {1}, {}}, nil, []string{"1", "2", "3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			order, err := Order(c.needs, strconv.Itoa)
			var circle *CycleError
			if errors.As(err, &circle) {
				if !slices.Equal(circle.Names, c.cycle) {
					t.Errorf("cycle %v, want %v", circle.Names, c.cycle)
				}
				return
			}
			if c.cycle != nil || !slices.Equal(order, c.order) {
				t.Errorf("%v, want %v (cycle %v)", order, c.order, c.cycle)
			}
		})
	}
}

func FuzzOrder(f *testing.F) {
	f.Add(uint8(4), []byte{0, 1, 1, 2, 2, 3, 3, 1})
	f.Add(uint8(3), []byte{0, 1, 0, 2, 1, 2})
	f.Fuzz(func(t *testing.T, n uint8, pairs []byte) {
		if n == 0 {
			return
		}
		needs := make([][]int, n)
		for i := 0; i+1 < len(pairs); i += 2 {
			from, to := int(pairs[i]%n), int(pairs[i+1]%n)
			needs[from] = append(needs[from], to)
		}
		order, err := Order(needs, strconv.Itoa)
		var circle *CycleError
		if errors.As(err, &circle) {
			if names := slices.Sorted(slices.Values(circle.Names)); len(names) == 0 || len(slices.Compact(names)) != len(circle.Names) {
				t.Fatalf("%v: a cycle goes through each of its members once", circle.Names)
			}
			for i, name := range circle.Names {
				at, _ := strconv.Atoi(name)
				next, _ := strconv.Atoi(circle.Names[(i+1)%len(circle.Names)])
				if !slices.Contains(needs[at], next) {
					t.Fatalf("%v is no cycle: %d does not need %d", circle.Names, at, next)
				}
			}
			return
		}
		place := make([]int, n)
		for i, x := range order {
			place[x] = i
		}
		if err != nil || len(order) != int(n) {
			t.Fatalf("%d of %d in order, %v", len(order), n, err)
		}
		for i, list := range needs {
			for _, j := range list {
				if place[j] >= place[i] {
					t.Fatalf("%d comes before %d, which it needs", i, j)
				}
			}
		}
	})
}
