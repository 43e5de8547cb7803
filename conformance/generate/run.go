package generate

import (
	"fmt"
	"path"
	"strings"
)

// fixed gives what a RUN touched a fixed time, links and folders included, and
// says so of the folders above: after it nothing of the layer tells when it was
// made.
func fixed(paths ...string) string {
	return "touch -h -d @1000000000 " + strings.Join(paths, " ")
}

// run writes a RUN, in a stage that has a shell and while few were written.
func (g *generator) run() {
	if !g.current.shell || g.runs >= maxRuns {
		g.env()
		return
	}
	g.runs++
	w, kinds := fmt.Sprintf("/r%d", g.runs), allKinds
	if g.current.user {
		// Who is not root can write, and set times, in what is his: a WORKDIR is.
		g.line("WORKDIR /u%d", g.runs)
		g.current.dir = fmt.Sprintf("/u%d", g.runs)
		w, kinds = g.current.dir+w, userKinds
	}
	script, touched := g.script(w, kinds)
	switch g.IntN(6) {
	case 0:
		g.line("RUN <<EOF\nset -e\n%s\n%s\nEOF", strings.ReplaceAll(script, " && ", "\n"), fixed(touched...))
	case 1:
		g.line("RUN <<EOF\n#!/bin/sh\nset -e\n%s\n%s\nEOF", strings.ReplaceAll(script, " && ", "\n"), fixed(touched...))
	case 2:
		g.line(`RUN ["/bin/sh", "-c", %q]`, script+" && "+fixed(touched...))
	default:
		g.line("%s%s %s \\\n  && %s", g.keyword("RUN"), g.runFlags(), script, fixed(touched...))
	}
	g.current.paths = append(g.current.paths, w)
}

// runFlags are mounts that leave nothing behind, and the network.
func (g *generator) runFlags() string {
	switch g.IntN(12) {
	case 0:
		return " --mount=type=tmpfs,target=/tmp/t"
	case 1:
		return " --mount=type=bind,source=file,target=/mnt/file"
	case 2:
		return " --mount=target=/mnt/ctx,rw"
	case 3:
		return " --mount=type=cache,target=/cache/here"
	case 4:
		return " --network=none"
	case 5:
		return " --mount=type=secret,id=nothing"
	case 6:
		return " --mount=from=busybox,source=bin,target=/mnt/" + g.pick("bin", "a/b")
	case 7:
		if s := g.stages; len(s) > 0 && s[0].name != "" {
			return " --mount=from=" + s[0].name + ",target=/mnt/stage" + g.pick("", ",rw")
		}
	}
	return ""
}

// Of what script does, the first userKinds work for everybody.
const (
	userKinds = 7
	allKinds  = 10
)

// script is what a RUN does in the folder w, and all that it touches, which
// has fixed times after it. What a builder's own tracing brings into a step is
// left out of what the step tells.
func (g *generator) script(w string, kinds int) (text string, touched []string) {
	touched = []string{w, path.Dir(w)}
	do := "umask 022 && mkdir " + w
	for n := 1 + g.IntN(3); n > 0; n-- {
		f := fmt.Sprintf("%s/f%d", w, n)
		switch g.IntN(kinds) {
		case 0:
			do += " && env | grep -vE '^(_|SHLVL|OLDPWD|TRACEPARENT|OTEL_.*)=' | sort > " + f
		case 1:
			do += fmt.Sprintf(" && echo \"$A-$B-${C:-none}\" > %s && pwd >> %s && id -u >> %s", f, f, f)
		case 2:
			do += fmt.Sprintf(" && echo x > %s && ln %s %s.hard && chmod 4750 %s", f, f, f, f)
			touched = append(touched, f+".hard")
		case 3:
			do += fmt.Sprintf(" && ln -s ../bin %s", f)
		case 4:
			do += fmt.Sprintf(" && mkdir %s && echo y > %s/in && chmod 700 %s", f, f, f)
			touched = append(touched, f+"/in")
		case 5:
			do += fmt.Sprintf(" && ls -A /dev /mnt /run 2>/dev/null | grep -v otel | sort > %s || true", f)
		case 6:
			do += fmt.Sprintf(" && (cat /d/file /d/a.txt /mnt/file 2>/dev/null || true) > %s", f)
		case 7:
			do += fmt.Sprintf(" && mkfifo %s && chown 12:34 %s", f, f)
		case 8:
			do += fmt.Sprintf(" && rm -rf /d /bin/ar && echo gone > %s", f)
			touched = append(touched, "/bin")
		case 9:
			do += fmt.Sprintf(" && rm -rf /lnk && ln -s /e /lnk && echo l > %s", f)
			touched = append(touched, "/lnk")
		}
		touched = append(touched, f)
	}
	return do, touched
}
