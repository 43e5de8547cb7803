package generate

import (
	"fmt"
	"path"
	"strings"
)

// files is the context: the same names in every build, so that instructions
// can use them, with other content, modes and ignore rules.
func files(g *generator) []File {
	out := []File{
		{Path: "dir", Dir: true, Mode: 0o755},
		{Path: "dir/sub", Dir: true, Mode: []uint32{0o755, 0o700, 0o775}[g.IntN(3)]},
		{Path: "empty", Dir: true, Mode: 0o755},
		{Path: "file", Mode: []uint32{0o644, 0o600, 0o755, 0o4755}[g.IntN(4)], Data: fmt.Sprintf("file %d\n", g.IntN(3))},
		{Path: "other.txt", Mode: 0o644, Data: "other\n"},
		{Path: "dir/a.txt", Mode: 0o644, Data: fmt.Sprintf("a %d\n", g.IntN(3))},
		{Path: "dir/b.go", Mode: 0o640, Data: "package b\n"},
		{Path: "dir/sub/c.txt", Mode: 0o644, Data: "c\n"},
		{Path: "dir/sub/run.sh", Mode: 0o755, Data: "#!/bin/sh\necho run\n"},
		{Path: "link", Link: "dir/a.txt"},
		{Path: "dirlink", Link: "dir"},
		{Path: "dir/uplink", Link: "../file"},
	}
	if g.one(3) {
		rules := g.some(3, func() string {
			return g.pick("dir/sub", "*.txt", "**/*.go", "!dir/a.txt", "dir/*", "!dir/sub", "empty", "/other.txt", "# comment", "link")
		})
		out = append(out, File{Path: ".dockerignore", Mode: 0o644, Data: strings.ReplaceAll(rules, " ", "\n") + "\n"})
	}
	return out
}

// source is something of the context.
func (g *generator) source() string {
	return g.pick("file", "file", "dir", "dir", "dir/sub/", "other.txt", "dir/a.txt", "*.txt", "dir/*", "link", "dirlink", "d*", "./file",
		"dir/../file", "empty", "nothing*", "/dir/sub/c.txt", "${F:-file}", ".")
}

// dest is where files go: a folder of its own mostly, sometimes one that an
// earlier instruction made.
func (g *generator) dest() string {
	return g.pick("/d/", "/d", "/e/f/", "rel/", "rel", "./", ".", "/d/g/h", "/etc/", "/${A:-z}/", "/lnk/", "/d/file/", "/bin/newtool")
}

func (g *generator) ownerFlags() string {
	out := ""
	if g.one(4) {
		out += " --chown=" + g.pick("1000", "1:2", "root", "nosuchuser", "root:root", ":5", "${OWNER:-3}", "12:nosuchgroup")
	}
	if g.one(5) {
		out += " --chmod=" + g.pick("755", "0600", "u=rwX,go=rX", "4711", "a+x", "${M:-644}", "go-rwx")
	}
	return out
}

// copyFlags are those that change what is copied and how it lies.
func (g *generator) copyFlags(add bool) string {
	out := g.ownerFlags()
	if g.one(8) {
		out += " --exclude=" + g.pick("*.txt", "**/c.txt", "sub", "b.go")
	}
	if g.one(10) && !strings.Contains(out, "--chown") {
		out += " --link"
	}
	if g.one(10) && !add {
		out += " --parents"
	}
	return out
}

func (g *generator) copy() {
	dest := g.dest()
	g.line("%s%s %s %s", g.keyword("COPY"), g.copyFlags(false), g.some(3, g.source), dest)
}

// copyFrom copies from a stage above, by name or number, or from an image.
func (g *generator) copyFrom() {
	if len(g.stages) == 0 || g.one(8) {
		g.line("COPY --from=busybox%s /bin/busybox %s", g.ownerFlags(), g.dest())
		return
	}
	n := g.IntN(len(g.stages))
	from := g.stages[n]
	name := from.name
	if name == "" || g.one(5) {
		name = fmt.Sprint(n)
	}
	what := "/"
	if !from.shell {
		what = g.pick("/", "/d*", "/nothing*")
	}
	if len(from.paths) > 0 {
		what = from.paths[g.IntN(len(from.paths))]
	}
	if what == "/" && from.shell {
		what = "/bin/busybox"
	}
	g.line("COPY --from=%s%s %s %s", name, g.ownerFlags(), what, g.dest())
}

func (g *generator) add() {
	g.line("%s%s %s %s", g.keyword("ADD"), g.copyFlags(true), g.some(2, g.source), g.dest())
}

func (g *generator) heredoc() {
	word, dash := g.pick("EOF", "conf.txt", `"quoted"`, "'q'"), g.pick("", "", "-")
	name := strings.Trim(word, `"'`)
	body := g.pick("plain\n", "$A and ${B:-b}\n", "\ttab 'q' \"d\"\n", "")
	g.line("COPY%s <<%s%s %s\n%s%s", g.ownerFlags(), dash, word, g.pick("/d/", "/h/new/", "/here"), body, name)
}

func (g *generator) workdir() {
	dir := g.pick("/w", "/w/deep", "rel", "..", "/", "/${A:-w}", "sub/dir", "/d")
	if path.IsAbs(dir) {
		g.current.dir = dir
	} else {
		g.current.dir = path.Join(g.current.dir, dir)
	}
	g.line("WORKDIR %s", dir)
}
