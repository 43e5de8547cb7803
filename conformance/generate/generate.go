// Package generate makes Dockerfiles from numbers: the same seed gives the same
// build everywhere, and a few thousand of them reach combinations of
// instructions that nobody writes down as a case.
//
// What is made is small and bounded (a handful of stages, few steps that start
// a process), mostly valid, and repeatable: a RUN leaves no time of day behind,
// so that two builds of one Dockerfile can be compared to the byte.
package generate

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Build is one build: a Dockerfile, its context and the flags of build.
type Build struct {
	Seed       uint64
	Dockerfile string
	Files      []File   // of the context, parents before children
	Args       []string // pairs of flag and value, without blanks
}

// File is one file of a context.
type File struct {
	Path string
	Mode uint32 // permissions; 0 for a link
	Dir  bool
	Link string // target of a symbolic link
	Data string
}

// Bounds of what is generated. Processes are what takes time in a build.
const (
	maxStages       = 5
	maxInstructions = 9 // of a stage
	maxRuns         = 5 // of a file
)

// New makes the build of a seed.
func New(seed uint64) Build {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x77686974746c65)), vars: []string{"A", "B", "C"}}
	b := Build{Seed: seed, Files: files(g)}
	g.globals()
	for n := 1 + g.IntN(maxStages); n > 0; n-- {
		g.stage()
	}
	b.Dockerfile = g.text()
	b.Args = g.flags()
	return b
}

// A generator writes one file. Rand must be asked in a fixed order: what is
// asked depends on earlier answers only.
type generator struct {
	*rand.Rand
	lines   []string
	vars    []string // names that expansions use; some are never set
	stages  []*stage
	current *stage
	runs    int
}

// A stage is what later instructions have to know of one.
type stage struct {
	name  string
	shell bool     // it has /bin/sh
	user  bool     // USER is not root
	paths []string // files and folders that it certainly has, absolute
	dir   string   // current WORKDIR as far as it is known
}

func (g *generator) line(format string, args ...any) {
	g.lines = append(g.lines, fmt.Sprintf(format, args...))
}

// one answers true once in n times.
func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

// pick returns one of several texts.
func (g *generator) pick(of ...string) string { return of[g.IntN(len(of))] }

// some returns one to n results of make.
func (g *generator) some(n int, make func() string) string {
	out := []string{make()}
	for len(out) < n && g.one(2) {
		out = append(out, make())
	}
	return strings.Join(out, " ")
}

// keyword writes an instruction's name as people do: mostly in capitals.
func (g *generator) keyword(name string) string {
	if g.one(15) {
		return strings.ToLower(name)
	}
	return name
}

func (g *generator) text() string {
	var b strings.Builder
	if g.one(8) {
		b.WriteString(g.pick("# check=skip=all\n", "# escape=\\\n"))
	}
	for _, l := range g.lines {
		if g.one(12) {
			b.WriteString("# a comment\n")
		}
		b.WriteString(l)
		b.WriteByte('\n')
	}
	return b.String()
}

// globals writes the ARGs before the first FROM. BASE is always one of them.
func (g *generator) globals() {
	g.line("ARG BASE=busybox")
	for _, v := range g.vars {
		if g.one(3) {
			g.line("ARG %s=%s", v, g.value())
		}
	}
}

// stage writes one stage.
func (g *generator) stage() {
	s := &stage{dir: "/"}
	base := "scratch"
	switch n := g.IntN(10); {
	case n < 3 && len(g.stages) > 0:
		below := g.stages[g.IntN(len(g.stages))]
		if below.name == "" {
			break
		}
		base, s.shell, s.dir, s.user = below.name, below.shell, below.dir, below.user
		s.paths = append(s.paths, below.paths...)
	case n < 9:
		base, s.shell = g.pick("busybox", "busybox:latest", "${BASE}", "$BASE", "docker.io/library/busybox"), true
	}
	text := g.keyword("FROM") + " " + base
	if g.one(4) || len(g.stages) > 0 || g.one(2) {
		s.name = fmt.Sprintf("%s%d", g.pick("build", "base", "s.", "x-", "out_"), len(g.stages))
		written := s.name
		if g.one(8) {
			written = strings.ToUpper(s.name[:1]) + s.name[1:]
		}
		text += " " + g.pick("AS", "AS", "as") + " " + written
	}
	g.line("%s", text)
	g.current = s
	for n := 1 + g.IntN(maxInstructions); n > 0; n-- {
		g.instruction()
	}
	// Without this, most stages would be of no use to the last one.
	if len(g.stages) > 0 && !g.one(3) {
		g.copyFrom()
	}
	g.stages = append(g.stages, s)
}

// instruction writes one of all kinds; those that make layers more often.
func (g *generator) instruction() {
	kinds := []func(){
		g.copy, g.copy, g.copy, g.copy, g.copyFrom, g.copyFrom, g.add, g.heredoc,
		g.run, g.run, g.run, g.run, g.run, g.workdir, g.workdir, g.user,
		g.env, g.env, g.env, g.arg, g.arg, g.label,
		g.expose, g.volume, g.stopSignal, g.shellForm, g.cmd, g.entrypoint, g.healthcheck, g.onbuild, g.maintainer,
	}
	kinds[g.IntN(len(kinds))]()
}

// flags are those of the build.
func (g *generator) flags() []string {
	var out []string
	for _, v := range g.vars {
		if g.one(4) {
			out = append(out, "--build-arg", v+"="+g.pick("given", "", "a_b", "x/y", "$A"))
		}
	}
	if g.one(6) {
		out = append(out, "--label", g.pick("who=me", "a.b=", "l=given"))
	}
	if g.one(8) {
		out = append(out, "--build-arg", "http_proxy=http://127.0.0.1:9")
	}
	if s := g.stages[g.IntN(len(g.stages))]; s.name != "" && g.one(5) {
		out = append(out, "--target", s.name)
	}
	return out
}
