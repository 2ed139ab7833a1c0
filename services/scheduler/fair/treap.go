package fair

// treap is an ordered set of nodes that knows each one's rank: a search tree by (ord, seq) that is a heap by a pseudo-random
// number of each node. A node is in at most one treap at a time, so its links are its own.
type treap struct{ root *node }

func (t *treap) len() int { return size(t.root) }

// first returns the least node, or nil.
func (t *treap) first() *node {
	n := t.root
	for n != nil && n.left != nil {
		n = n.left
	}
	return n
}

func (t *treap) insert(n *node) {
	n.left, n.right, n.size = nil, nil, 1
	n.random = mix(n.seq)
	n.home = t
	below, above := split(t.root, n)
	t.root = merge(merge(below, n), above)
}

func (t *treap) remove(n *node) {
	t.root = without(t.root, n)
	n.left, n.right, n.home = nil, nil, nil
}

// rank returns how many nodes are before n.
func (t *treap) rank(n *node) int {
	before := 0
	for at := t.root; at != nil; {
		if at == n {
			return before + size(at.left)
		}
		if n.before(at) {
			at = at.left
			continue
		}
		before += size(at.left) + 1
		at = at.right
	}
	return before
}

func (n *node) before(m *node) bool {
	if n.ord != m.ord {
		return n.ord < m.ord
	}
	return n.seq < m.seq
}

func size(n *node) int {
	if n == nil {
		return 0
	}
	return int(n.size)
}

func (n *node) count() { n.size = int32(1 + size(n.left) + size(n.right)) }

// split divides a tree into what is before m and the rest.
func split(n, m *node) (below, above *node) {
	if n == nil {
		return nil, nil
	}
	if n.before(m) {
		n.right, above = split(n.right, m)
		n.count()
		return n, above
	}
	below, n.left = split(n.left, m)
	n.count()
	return below, n
}

// merge joins two trees of which all of a is before all of b.
func merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.random > b.random:
		a.right = merge(a.right, b)
		a.count()
		return a
	}
	b.left = merge(a, b.left)
	b.count()
	return b
}

func without(at, n *node) *node {
	switch {
	case at == nil:
		return nil
	case at == n:
		return merge(n.left, n.right)
	case n.before(at):
		at.left = without(at.left, n)
	default:
		at.right = without(at.right, n)
	}
	at.count()
	return at
}

// mix spreads a sequence number over 32 bits (the finaliser of SplitMix64), so that the tree's shape depends on nothing
// but its content.
func mix(x uint64) uint32 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return uint32(x ^ x>>31)
}
