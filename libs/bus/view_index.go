package bus

import (
	"math"
	"slices"

	"github.com/google/btree"
)

// btreeDegree keeps small lists in one node and a list of 50,000 at three levels.
const btreeDegree = 32

// viewIndex lists entries under values, each list sorted by age.
type viewIndex[T any] struct {
	valuesOf func(Entry[T]) []string
	lists    map[string]*btree.BTreeG[indexed[T]]
	free     *btree.FreeListG[indexed[T]] // shared: most lists are short
}

type indexed[T any] struct {
	created uint64
	item    *viewItem[T]
}

func newViewIndex[T any](valuesOf func(Entry[T]) []string) *viewIndex[T] {
	return &viewIndex[T]{
		valuesOf: valuesOf,
		lists:    map[string]*btree.BTreeG[indexed[T]]{},
		free:     btree.NewFreeListG[indexed[T]](btree.DefaultFreeListSize),
	}
}

func olderFirst[T any](a, b indexed[T]) bool { return a.created < b.created }

// values returns the sorted, distinct values of e.
func (ix *viewIndex[T]) values(e Entry[T]) []string {
	vs := ix.valuesOf(e)
	if len(vs) > 1 {
		vs = slices.Clone(vs)
		slices.Sort(vs)
		vs = slices.Compact(vs)
	}
	return vs
}

func (ix *viewIndex[T]) add(it *viewItem[T], values []string) {
	for _, value := range values {
		list := ix.lists[value]
		if list == nil {
			list = btree.NewWithFreeListG(btreeDegree, olderFirst[T], ix.free)
			ix.lists[value] = list
		}
		list.ReplaceOrInsert(indexed[T]{created: it.entry.Created, item: it})
	}
}

func (ix *viewIndex[T]) remove(it *viewItem[T], values []string) {
	for _, value := range values {
		list := ix.lists[value]
		if list == nil {
			continue
		}
		list.Delete(indexed[T]{created: it.entry.Created})
		if list.Len() == 0 {
			delete(ix.lists, value)
		}
	}
}

// move brings it from the lists of old into those of its present entry, and returns these.
func (ix *viewIndex[T]) move(it *viewItem[T], old []string) []string {
	now := ix.values(*it.entry)
	if slices.Equal(old, now) {
		return old
	}
	for _, value := range old {
		if _, stays := slices.BinarySearch(now, value); !stays {
			ix.remove(it, []string{value})
		}
	}
	for _, value := range now {
		if _, was := slices.BinarySearch(old, value); !was {
			ix.add(it, []string{value})
		}
	}
	return now
}

func (ix *viewIndex[T]) len(value string) int {
	if list := ix.lists[value]; list != nil {
		return list.Len()
	}
	return 0
}

// descend calls f for the items under value that are older than before (0: all), newest
// first, until f returns false.
func (ix *viewIndex[T]) descend(value string, before uint64, f func(*viewItem[T]) bool) {
	list := ix.lists[value]
	if list == nil {
		return
	}
	from := uint64(math.MaxUint64)
	if before > 0 {
		from = before - 1
	}
	list.DescendLessOrEqual(indexed[T]{created: from}, func(x indexed[T]) bool { return f(x.item) })
}
