package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

// Missing is the error of New when it needs images: resolve Refs, add them to
// Request.Images and call New again. ONBUILD triggers of these images may lead
// to another Missing.
type Missing struct {
	Refs []Ref // each once, in file order
	Uses []Use // who needs them, in file order
	// Known is the mistakes found so far. They stay whatever the images are,
	// and come again, with more, when all images are there.
	Known dockerfile.Errors

	file *dockerfile.File
}

// Use is one place that needs an image.
type Use struct {
	Ref  Ref
	Pos  dockerfile.Pos
	What string // "base image", or the flag that names it
	Hint string // what may be meant when there is no such image
}

func (m *Missing) Error() string {
	names := make([]string, len(m.Refs))
	for i, r := range m.Refs {
		names[i] = r.Name
	}
	return "images to resolve: " + strings.Join(names, ", ")
}

// Failed returns the mistakes to report when images could not be resolved:
// one for each place that needs one, and all that were known before.
func (m *Missing) Failed(causes map[Ref]error) dockerfile.Errors {
	errs := slices.Clone(m.Known)
	for _, u := range m.Uses {
		cause := causes[u.Ref]
		if cause == nil {
			continue
		}
		var way interface{ Hint() string }
		if u.What == ofContext && errors.As(cause, &way) && way.Hint() != "" {
			u.Hint = way.Hint()
		}
		errs = append(errs, m.file.Mistake(u.Pos, fmt.Sprintf("%s %q: %v", u.What, u.Ref.Name, cause), u.Hint))
	}
	return errs.Sorted()
}

// missing collects the refs of reachable stages that Request.Images lacks.
func (p *planner) missing() *Missing {
	m := &Missing{Known: p.errs.Sorted(), file: p.file}
	seen := map[Ref]bool{}
	add := func(u Use) {
		if p.req.Images[u.Ref] != nil {
			return
		}
		if !seen[u.Ref] {
			seen[u.Ref] = true
			m.Refs = append(m.Refs, u.Ref)
		}
		m.Uses = append(m.Uses, u)
	}
	for _, s := range p.stages {
		if !s.reachable {
			continue
		}
		if s.image != nil {
			add(Use{Ref: *s.image, Pos: s.src.Pos, What: "base image", Hint: p.imageHint(s, s.image.Name)}.of(s.given))
		}
		for _, in := range s.instructions() {
			for _, from := range s.sources(in) {
				if from.image != nil {
					add(p.use(s, in, *from.image).of(from.given))
				}
			}
		}
	}
	if len(m.Refs) == 0 {
		return nil
	}
	return m
}

// ofContext is the What of an image that a named context stands for.
const ofContext = "build context: image"

// of tells that u is of a named context, if given.
func (u Use) of(given bool) Use {
	if given {
		u.What, u.Hint = ofContext, "a named context (--build-context) gives this image for the name here: check what it says"
	}
	return u
}

// use is that of an image by an instruction that reads files of it.
func (p *planner) use(s *stage, in *dockerfile.Instruction, ref Ref) Use {
	if _, ok := in.Command.(*dockerfile.Run); ok {
		return Use{Ref: ref, Pos: in.Pos, What: "RUN --mount: image", Hint: p.mountFromHint(s, ref.Name)}
	}
	return Use{Ref: ref, Pos: in.Pos, What: "COPY --from: image", Hint: p.imageHint(s, ref.Name)}
}

// imageHint guesses what the name of an image was meant to be.
func (p *planner) imageHint(s *stage, name string) string {
	if below := p.byName[strings.ToLower(name)]; below != nil && below.src.Index >= s.src.Index {
		return fmt.Sprintf("stage %q is defined at line %d, and FROM sees only the stages above it: move that stage up", below.src.Name, below.src.Line)
	}
	if near := dockerfile.Suggest(name, p.file.StageNames()); near != "" {
		return fmt.Sprintf("did you mean the stage %q?", near)
	}
	common := []string{"alpine", "busybox", "centos", "debian", "fedora", "golang", "nginx", "node", "python", "scratch", "ubuntu"}
	repo, tag, tagged := strings.Cut(name, ":")
	if near := dockerfile.Suggest(repo, common); near != "" {
		if tagged {
			near += ":" + tag
		}
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "check name and tag; an image that is only on this machine has to be built, loaded or pulled first"
}
