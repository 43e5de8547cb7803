package source

import "strings"

// room gives memory for many nodes and their names, not for each by itself. It is one goroutine's.
type room struct {
	nodes []node
	used  int // of nodes
	names strings.Builder
}

const (
	roomNodes = 64
	roomNames = 4 << 10
)

// node returns a new node of that name.
func (r *room) node(name string) *node {
	if r.used == len(r.nodes) {
		r.nodes, r.used = make([]node, roomNodes), 0
	}
	n := &r.nodes[r.used]
	r.used++
	n.name = name
	return n
}

// back takes the last node back, which nobody has.
func (r *room) back() {
	r.used--
	r.nodes[r.used] = node{}
}

// name returns a copy of name.
func (r *room) name(name []byte) string {
	if r.names.Cap()-r.names.Len() < len(name) {
		r.names = strings.Builder{}
		r.names.Grow(roomNames)
	}
	begin := r.names.Len()
	r.names.Write(name)
	return r.names.String()[begin:]
}

// joiner makes the paths of what is in a directory, all of them in one piece of memory.
type joiner struct {
	dir string
	all strings.Builder
}

func newJoiner(dir string, kids []*node) *joiner {
	p := &joiner{dir: dir}
	size := len(kids) * (len(dir) + 1)
	for _, k := range kids {
		size += len(k.name)
	}
	p.all.Grow(size)
	return p
}

// join is entry.Join of the directory and name.
func (p *joiner) join(name string) string {
	if p.dir == "." {
		return name
	}
	begin := p.all.Len()
	p.all.WriteString(p.dir)
	p.all.WriteByte('/')
	p.all.WriteString(name)
	return p.all.String()[begin:]
}
