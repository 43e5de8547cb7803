package plan

import (
	"slices"
	"sort"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

// Outline is what a build of a target can be given.
type Outline struct {
	Name string // of the stage; "" if it has none
	Doc  string
	Args []OutlineArg
	// Secrets and SSH are what RUN instructions mount.
	Secrets, SSH []OutlineMount
}

// OutlineArg is a build argument that the target, or a stage that it needs,
// takes. Value is what it has in this build.
type OutlineArg struct {
	Name, Value, Doc string
	Pos              dockerfile.Pos
}

// OutlineMount is a secret or an agent's socket that steps ask for.
type OutlineMount struct {
	ID       string
	Required bool
	Pos      dockerfile.Pos
}

// definition is an ARG and what it came to.
type definition struct {
	item  dockerfile.ArgItem
	value string
	needs []string // the ARGs that its default names
	pos   dockerfile.Pos
}

// NewOutline tells what the target of r takes. Its errors are New's.
func NewOutline(r Request) (*Outline, error) {
	p, target, _, err := run(r)
	if err != nil {
		return nil, err
	}
	o := &Outline{Name: target.src.Name, Doc: target.src.Doc}
	args, seen := map[string]bool{}, map[*stage]bool{}
	p.outline(o, target, args, seen)
	sort.SliceStable(o.Args, func(i, k int) bool { return o.Args[i].Pos.Line < o.Args[k].Pos.Line })
	for _, list := range [][]OutlineMount{o.Secrets, o.SSH} {
		sort.SliceStable(list, func(i, k int) bool { return list[i].Pos.Line < list[k].Pos.Line })
	}
	return o, nil
}

// outline adds what s takes and has not been told, then what it is built from.
func (p *planner) outline(o *Outline, s *stage, args map[string]bool, seen map[*stage]bool) {
	todo := []*stage{s}
	for len(todo) > 0 {
		s, todo = todo[0], todo[1:]
		if seen[s] {
			continue
		}
		seen[s] = true
		for _, name := range p.takes(s) {
			def, ok := s.defined[name]
			if !ok {
				def, ok = p.meta[name]
			}
			if ok && !args[name] {
				args[name] = true
				o.Args = append(o.Args, OutlineArg{Name: name, Value: def.value, Doc: def.item.Doc, Pos: def.pos})
			}
		}
		o.mounts(s.out)
		todo = append(todo, s.needs()...)
	}
}

// mounts adds the secrets and agents that steps of s ask for; what the first
// says of one counts.
func (o *Outline) mounts(s *Stage) {
	for _, l := range s.Lines {
		if l.Step == nil || l.Step.Run == nil {
			continue
		}
		for _, m := range l.Step.Run.Mounts {
			list := &o.Secrets
			switch m.Type {
			case MountSecret:
			case MountSSH:
				list = &o.SSH
			default:
				continue
			}
			if !slices.ContainsFunc(*list, func(known OutlineMount) bool { return known.ID == m.ID }) {
				*list = append(*list, OutlineMount{ID: m.ID, Required: m.Required, Pos: l.Pos})
			}
		}
	}
}

// takes is the ARGs of s and of its FROM, with those that their defaults name.
func (p *planner) takes(s *stage) []string {
	names := slices.Clone(s.fromArgs)
	for _, in := range s.instructions() {
		if a, ok := in.Command.(*dockerfile.Arg); ok {
			for _, item := range a.Items {
				names = append(names, item.Key)
			}
		}
	}
	known := map[string]bool{}
	var out []string
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		if known[name] {
			continue
		}
		known[name] = true
		out = append(out, name)
		if _, own := s.defined[name]; !own {
			names = append(names, p.meta[name].needs...)
		}
	}
	return out
}

// define notes an ARG of the stage for its outline. One that only takes the
// global value is no definition of its own.
func (st *state) define(item dockerfile.ArgItem, value string) {
	_, given := st.p.req.Args[item.Key]
	if _, global := st.p.global.Get(item.Key); global && !given && item.Default == nil {
		return
	}
	if st.s.defined == nil {
		st.s.defined = map[string]definition{}
	}
	st.s.defined[item.Key] = definition{item: item, value: value, pos: st.in.Pos}
}
