package generate

import "fmt"

// variable is a reference to a variable in one of the forms of expansion.
func (g *generator) variable() string {
	v := g.vars[g.IntN(len(g.vars))]
	switch g.IntN(16) {
	case 0, 1, 2, 3:
		return "$" + v
	case 4, 5, 6:
		return "${" + v + "}"
	case 7:
		return "${" + v + ":-" + g.pick("d", "", "$A", "${B:-e}") + "}"
	case 8:
		return "${" + v + "-" + g.pick("d", "f/g") + "}"
	case 9:
		return "${" + v + ":+" + g.pick("set", "$C") + "}"
	case 10:
		return "${" + v + "+" + g.pick("set", "") + "}"
	case 11:
		return "${" + v + g.pick("#", "##") + g.pick("g*", "*", "?", "x/*", "v*1") + "}"
	case 12:
		return "${" + v + g.pick("%", "%%") + g.pick("*n", "*", "?", "/*", "e*") + "}"
	case 13:
		return "${" + v + g.pick("/", "//") + g.pick("a", "?", "v*e", "/") + "/" + g.pick("z", "", "$B") + "}"
	case 14:
		return `\$` + v
	}
	return "$" + v + "_" // another variable, which nothing sets
}

// value is what a variable or label may be set to, as it is written.
func (g *generator) value() string {
	switch g.IntN(12) {
	case 0, 1, 2:
		return g.pick("v1", "value", "x/y", "1", "gone")
	case 3:
		return `"two words"`
	case 4:
		return `two\ words`
	case 5:
		return `'$A'`
	case 6:
		return `""`
	case 7:
		return fmt.Sprintf(`"<%s>"`, g.variable())
	case 8:
		return g.variable() + g.pick("", "-", ".")
	case 9:
		return `'a'"b"c`
	case 10:
		return `"q\"q"`
	}
	return g.variable()
}

// name is a variable's name or, now and then, a new one.
func (g *generator) name() string {
	if g.one(4) {
		return fmt.Sprintf("N%d", g.IntN(5))
	}
	return g.vars[g.IntN(len(g.vars))]
}

func (g *generator) pair() string { return g.name() + "=" + g.value() }

func (g *generator) env() {
	if g.one(8) {
		g.line("%s %s some  text %s", g.keyword("ENV"), g.name(), g.value())
		return
	}
	g.line("%s %s", g.keyword("ENV"), g.some(3, g.pair))
}

func (g *generator) arg() {
	g.line("%s %s", g.keyword("ARG"), g.some(2, func() string {
		if g.one(3) {
			return g.pick(append(g.vars, "TARGETARCH", "TARGETSTAGE", "BUILDPLATFORM")...)
		}
		return g.pair()
	}))
}

func (g *generator) label() {
	g.line("LABEL %s", g.some(3, func() string { return g.pick("l", "a.b", `"quoted key"`, "$A.k") + "=" + g.value() }))
}

func (g *generator) user() {
	name := g.pick("0", "root", "1000", "1000:1001", "0:0", "${NOBODY:-0}", "0:7")
	g.current.user = name[0] == '1'
	g.line("USER %s", name)
}

func (g *generator) expose() {
	g.line("EXPOSE %s", g.some(3, func() string { return g.pick("80", "53/udp", "8000-8002", "443/tcp", "${PORT:-90}", "99/UDP", "80") }))
}

func (g *generator) volume() {
	g.line("VOLUME %s", g.pick("/data", `["/a b", "/c"]`, "/v1 /v2", "/${A:-v}x"))
}

func (g *generator) stopSignal() {
	g.line("STOPSIGNAL %s", g.pick("SIGINT", "9", "TERM", "${SIG:-SIGQUIT}", "SIGRTMIN+1"))
}

// shellForm changes the shell of a stage that has one to another way to call it.
func (g *generator) shellForm() {
	g.line("SHELL %s", g.pick(`["/bin/sh", "-ec"]`, `["/bin/sh", "-c"]`, `["/bin/busybox", "sh", "-c"]`))
}

func (g *generator) command() string {
	return g.pick(`["/bin/prog", "--flag", "a b"]`, "prog --flag $A", `["sh"]`, "[]", `['single']`, `exec "prog" <in`, `[ "a" , "b\n" ]`)
}

func (g *generator) cmd()        { g.line("%s %s", g.keyword("CMD"), g.command()) }
func (g *generator) entrypoint() { g.line("%s %s", g.keyword("ENTRYPOINT"), g.command()) }
func (g *generator) maintainer() { g.line("MAINTAINER %s", g.pick("me", "Some Body <some@body>")) }

func (g *generator) healthcheck() {
	if g.one(4) {
		g.line("HEALTHCHECK NONE")
		return
	}
	flags := g.pick("", "--interval=5s ", "--timeout=1m30s --retries=2 ", "--start-period=10ms --start-interval=1s ", "--interval=0s ")
	g.line("HEALTHCHECK %sCMD %s", flags, g.pick("curl localhost", `["/check", "x"]`, "exit $A"))
}

// onbuild sets a trigger that works whatever stage is built on this one.
func (g *generator) onbuild() {
	g.line("ONBUILD %s", g.pick("ENV T=$A", "LABEL t=1", "COPY file /triggered", "WORKDIR sub", "ARG B=trigger", "USER 0:9"))
}
