package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

const epochArg = "SOURCE_DATE_EPOCH"

// EpochSource is the one source of a stage that stands for a time: FROM
// scratch, any ARGs, and one ADD from elsewhere. It is nil when no stage is
// called name. Its error is a dockerfile.Errors.
func EpochSource(r Request, name string) (*Remote, error) {
	for _, s := range r.File.Stages {
		if s.Name == "" || !strings.EqualFold(s.Name, name) {
			continue
		}
		p := &planner{req: r, file: r.File, x: r.File.NewExpander(), declared: map[string]bool{}, target: r.BuildPlatform}
		global := p.metaArgs(r.Args, func(*dockerfile.Instruction, error) {}) // New tells the mistakes
		vars := slices.DeleteFunc(global.List(), func(kv string) bool { return strings.HasPrefix(kv, epochArg+"=") })
		e := &epochStage{x: p.x, given: r.Args, vars: dockerfile.NewVars(vars)}
		source, err := e.source(s)
		if err != nil {
			return nil, dockerfile.Errors{r.File.Mistake(s.Pos, err.Error(),
				"a stage that SOURCE_DATE_EPOCH names is FROM scratch, ARGs, and one ADD of a URL or a repository")}
		}
		return source, nil
	}
	return nil, nil
}

// epochStage reads such a stage. Its variables are the global ones and its own.
type epochStage struct {
	x     *dockerfile.Expander
	given map[string]string
	vars  *dockerfile.Vars
}

func (e *epochStage) source(s *dockerfile.Stage) (*Remote, error) {
	base, err := e.word(s.Base)
	if err != nil {
		return nil, err
	}
	if base != "scratch" {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must use FROM scratch")
	}
	var found *Remote
	for _, in := range s.Instructions {
		switch c := in.Command.(type) {
		case *dockerfile.Arg:
			if err := e.arg(c); err != nil {
				return nil, err
			}
			continue
		case *dockerfile.Copy:
			if c.Add {
				if found != nil {
					return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")
				}
				if found, err = e.add(c); err != nil {
					return nil, err
				}
				continue
			}
		}
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported %s instruction", strings.ToUpper(in.Keyword))
	}
	if found == nil {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")
	}
	return found, nil
}

func (e *epochStage) word(word string) (string, error) {
	out, err := e.x.Word(word, e.vars)
	return out.Text, err
}

func (e *epochStage) arg(c *dockerfile.Arg) error {
	for _, item := range c.Items {
		if v, ok := e.given[item.Key]; ok {
			e.vars.Set(item.Key, v)
			continue
		}
		if item.Default == nil {
			continue
		}
		v, err := e.word(*item.Default)
		if err != nil {
			return err
		}
		e.vars.Set(item.Key, v)
	}
	return nil
}

func (e *epochStage) add(c *dockerfile.Copy) (*Remote, error) {
	if len(c.Heredocs) > 0 || len(c.Sources) != 1 {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")
	}
	source, err := e.word(c.Sources[0])
	if err != nil {
		return nil, err
	}
	checksum, err := e.word(c.Checksum)
	if err != nil {
		return nil, err
	}
	kind := address.KindOf(source)
	if kind == address.Path {
		return nil, errors.New("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")
	}
	return remote(c, source, kind, checksum)
}
