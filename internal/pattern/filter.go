package pattern

// Filter says what of a directory counts: what one list of patterns matches
// and another does not. Nil lets everything through. It is for one goroutine.
type Filter struct {
	include, exclude *Matcher // nil: everything, nothing
	patterns         [2][]string
}

// State is what a directory's judgement says about what is in it. The zero
// value is that of the root.
type State struct{ in, out Info }

// Judgement of one path.
type Judgement uint8

// The judgements. A Way is a directory that does not count itself and may
// have something in it that does.
const (
	Out Judgement = iota
	In
	Way
)

// NewFilter returns a filter. No include patterns at all (nil) include
// everything; it returns nil when there is nothing to leave out.
func NewFilter(include, exclude []string) (*Filter, error) {
	if include == nil && len(exclude) == 0 {
		return nil, nil
	}
	f := &Filter{patterns: [2][]string{include, exclude}}
	var err error
	if include != nil {
		if f.include, err = New(include); err != nil {
			return nil, err
		}
	}
	if len(exclude) > 0 {
		f.exclude, err = New(exclude)
	}
	return f, err
}

// Clone returns the filter for another goroutine.
func (f *Filter) Clone() *Filter {
	if f == nil {
		return nil
	}
	c, err := NewFilter(f.patterns[0], f.patterns[1])
	if err != nil { // every pattern was checked
		return f
	}
	return c
}

// Judge says whether p counts, given the state of the directory that it is in.
func (f *Filter) Judge(p string, dir bool, at State) (j Judgement, in State, err error) {
	if f == nil {
		return In, State{}, nil
	}
	included, excluded := f.include == nil, false
	if f.include != nil {
		if included, in.in, err = f.include.Match(p, at.in); err != nil {
			return Out, in, err
		}
	}
	if f.exclude != nil {
		if excluded, in.out, err = f.exclude.Match(p, at.out); err != nil {
			return Out, in, err
		}
	}
	switch {
	case included && !excluded:
		return In, in, nil
	case !dir,
		!included && !f.include.MayMatchBelow(p),
		excluded && !f.exclude.MayTakeBackBelow(p):
		return Out, in, nil
	}
	return Way, in, nil
}
