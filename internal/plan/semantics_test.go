package plan

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/config"
)

func TestHistoryTextsAreTheReferences(t *testing.T) {
	for name, c := range map[string]struct {
		src  string
		want []string
	}{
		"run": {"RUN echo a  b\nRUN [\"a\", \"b c\"]\nRUN \\\n  x && \\\n  y",
			[]string{"RUN /bin/sh -c echo a  b # buildkit", "RUN a b c # buildkit", "RUN /bin/sh -c x &&   y # buildkit"}},
		"run with args in scope": {"ARG A=1 B\nARG C=$A\nENV A=2\nARG A=3\nRUN x",
			[]string{"!ARG A=1 B", "!ARG C=1", "!ENV A=2", "!ARG A=3", "RUN |3 A=3 B= C=1 /bin/sh -c x # buildkit"}},
		"shell": {"SHELL [\"/bin/bash\", \"-c\"]\nRUN x\nCMD x y\nENTRYPOINT z",
			[]string{"!SHELL [/bin/bash -c]", "RUN /bin/bash -c x # buildkit", `!CMD ["/bin/bash" "-c" "x y"]`, `!ENTRYPOINT ["/bin/bash" "-c" "z"]`}},
		"copy": {"ENV D=/d U=u\nCOPY --chown=$U:g --chmod=755 a b $D/\nCOPY [\"a b\", \"/x\"]\nADD --chmod=u=rwX,go=rX t.tar .\nCOPY --from=img /x rel",
			[]string{"!ENV D=/d U=u", "COPY --chown=u:g --chmod=755 a b /d/ # buildkit", "COPY a b /x # buildkit",
				"ADD --chmod=u=rwX,go=rX t.tar . # buildkit", "COPY /x rel # buildkit"}},
		"copy of heredocs": {"COPY a <<f <<\"g\" /d/\n1\nf\n2\ng\n", []string{"COPY a <<f <<g /d/ # buildkit"}},
		"workdir":          {"WORKDIR /a\nWORKDIR b\nWORKDIR /", []string{"WORKDIR /a", "WORKDIR /a/b", "!WORKDIR /"}},
		"config": {"LABEL a=1 \"b c\"=\"d e\"\nUSER u:g\nVOLUME /a /b\nVOLUME [\"/c d\"]\nSTOPSIGNAL SIGINT\nMAINTAINER me <m@x>\nCMD [\"a\", \"b\\\"c\"]\nENTRYPOINT []\nCMD []",
			[]string{"!LABEL a=1 b c=d e", "!USER u:g", "!VOLUME [/a /b]", "!VOLUME [/c d]", "!STOPSIGNAL SIGINT", "!MAINTAINER me <m@x>", `!CMD ["a" "b\"c"]`, "!ENTRYPOINT []", "!CMD []"}},
		"expose": {"ENV P=\"90 91/udp\"\nEXPOSE 80/TCP $P 8000-8002\nEXPOSE 127.0.0.1:1:2", []string{"!ENV P=90 91/udp", "!EXPOSE [90/tcp 91/udp 80/tcp 8000/tcp 8001/tcp 8002/tcp]", "!EXPOSE [2/tcp]"}},
		"healthcheck": {"HEALTHCHECK --interval=5s --retries=2 CMD x y\nHEALTHCHECK CMD [\"a\", \"b\"]\nHEALTHCHECK NONE",
			[]string{"!HEALTHCHECK {Test:[CMD-SHELL x y] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}",
				"!HEALTHCHECK {Test:[CMD a b] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
				"!HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}"}},
		"onbuild has none": {"ONBUILD RUN x", nil},
		"heredocs of run": {"RUN <<EOF\na\nb\nEOF\nRUN <<-E\n\t#!/bin/x\n\ty\nE\nRUN cat <<A > /f && cat <<B\n1\nA\n2\nB\n",
			[]string{"RUN /bin/sh -c a\nb\n # buildkit", "RUN /bin/sh -c /dev/pipes/E # buildkit", "RUN /bin/sh -c cat <<A > /f && cat <<B\n1\nA\n2\nB # buildkit"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plan(t, "FROM a\n"+c.src, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := history(p); !slices.Equal(got, c.want) {
				t.Errorf("history\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// lastRun is the environment of the last RUN, without PATH.
func lastRun(t *testing.T, p *Plan) []string {
	t.Helper()
	for _, s := range slices.Backward(p.Steps) {
		if s.Run != nil {
			return slices.DeleteFunc(slices.Clone(s.Run.Env), func(kv string) bool { return strings.HasPrefix(kv, "PATH=") })
		}
	}
	t.Fatal("no RUN")
	return nil
}

func TestVariablesOfRun(t *testing.T) {
	args := map[string]string{"GIVEN": "yes", "http_proxy": "p", "UNUSED": "u"}
	for name, c := range map[string]struct{ src, want string }{
		"ENV sees the values of its start":              {"FROM a\nENV A=1 B=$A\nRUN x", "A=1 B="},
		"ARG sees the item before":                      {"FROM a\nARG C=1 D=$C\nRUN x", "C=1 D=1"},
		"a later ARG wins over ENV":                     {"FROM a\nENV X=a\nARG X=b\nRUN x", "X=b"},
		"but not in a stage on that one":                {"FROM a AS s\nENV X=a\nARG X=b Y=c\nFROM s\nRUN x", "X=a Y=c"},
		"a later ENV wins over ARG":                     {"FROM a\nARG X=b\nENV X=a\nRUN x", "X=a"},
		"ARG without a value does not hide ENV":         {"FROM a\nENV X=a\nARG X\nRUN x", "X=a"},
		"ARG without a value stays unset":               {"FROM a\nARG X\nENV Y=${X-unset}\nRUN x", "Y=unset"},
		"global ARGs are not seen in stages":            {"ARG G=1\nFROM a\nENV Y=$G\nRUN x", "Y="},
		"ARG imports the global value":                  {"ARG G=1\nFROM a\nARG G\nRUN x", "G=1"},
		"a default of the stage beats the global value": {"ARG G=1\nFROM a\nARG G=2\nRUN x", "G=2"},
		"a build argument beats both":                   {"ARG GIVEN=1\nFROM a\nARG GIVEN=2\nRUN x", "GIVEN=yes"},
		"a build argument alone is not seen":            {"FROM a\nRUN x", ""},
		"FROM stage inherits ARG values":                {"FROM a AS s\nARG X=1\nFROM s\nRUN x", "X=1"},
		"COPY --from does not":                          {"FROM a AS s\nARG X=1\nFROM a\nCOPY --from=s / /\nRUN x", ""},
		"predefined arguments need ARG":                 {"FROM a\nARG TARGETARCH TARGETPLATFORM BUILDOS TARGETSTAGE TARGETVARIANT\nRUN x", "TARGETARCH=amd64 TARGETPLATFORM=linux/amd64 BUILDOS=linux TARGETSTAGE=default TARGETVARIANT="},
		"quotes go, escapes work":                       {"FROM a\nENV A=\"a b\" B='$x' C=\\$A D=a\\ b\nRUN x", "A=a b B=$x C=$A D=a b"},
		"legacy ENV keeps blanks inside":                {"FROM a\nENV L a \"b c\"  d\nRUN x", "L=a b c  d"},
		"a value is replaced in its place":              {"FROM a\nENV A=1\nENV B=2\nENV A=3\nRUN x", "A=3 B=2"},
		"patterns":                                      {"FROM a\nENV F=a/b/c.tar.gz\nENV A=${F##*/} B=${F%.*} C=${F%%.*} D=${F#*/} E=${F/b/x} G=${F//\\//-}\nRUN x", "F=a/b/c.tar.gz A=c.tar.gz B=a/b/c.tar C=a/b/c D=b/c.tar.gz E=a/x/c.tar.gz G=a-b-c.tar.gz"},
		"keys expand too":                               {"FROM a\nENV K=NAME\nENV $K=v\nRUN x", "K=NAME NAME=v"},
		"the other escape character":                    {"# escape=`\nFROM a\nENV A=`$x B=c:\\d\nRUN x", `A=$x B=c:\d`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plan(t, c.src, func(r *Request) { r.Args = args })
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(lastRun(t, p), " "); got != c.want {
				t.Errorf("environment %q, want %q", got, c.want)
			}
		})
	}
}

func TestProxiesReachRunButNoKeyAndNoHistory(t *testing.T) {
	given := func(r *Request) { r.Args = map[string]string{"HTTP_proxy": "http://p", "no_proxy": "x"} }
	p, err := plan(t, "FROM a\nRUN x", given)
	if err != nil {
		t.Fatal(err)
	}
	run := p.Steps[0].Run
	want := []string{"HTTP_PROXY=http://p", "http_proxy=http://p", "NO_PROXY=x", "no_proxy=x"}
	if !slices.Equal(run.HiddenEnv, want) || len(lastRun(t, p)) != 0 || history(p)[0] != "RUN /bin/sh -c x # buildkit" {
		t.Errorf("hidden %q, env %q, history %q", run.HiddenEnv, run.Env, history(p))
	}
	p, err = plan(t, "FROM a\nARG no_proxy\nRUN x", given)
	if err != nil {
		t.Fatal(err)
	}
	if got := history(p)[1]; got != "RUN |1 no_proxy=x /bin/sh -c x # buildkit" || slices.Contains(p.Steps[0].Run.HiddenEnv, "no_proxy=x") {
		t.Errorf("a declared proxy is an argument like any: history %q, hidden %q", got, p.Steps[0].Run.HiddenEnv)
	}
}

func TestPathsOfCopy(t *testing.T) {
	for _, c := range []struct{ workdir, src, dest, wantSrc, wantDest string }{
		{"/w", "a", "b", "/a", "/w/b"},
		{"/w", "a/", "b/", "/a", "/w/b/"},
		{"/w", "../../a", ".", "/a", "/w/"},
		{"/w", ".", "./", "/", "/w/"},
		{"/w", "/a/../b*", "/x/../y", "/b*", "/y"},
		{"/w", "a", "/", "/a", "/"},
		{"/w", "a", "..", "/a", "/"},
		{"/w", "a", "../../..", "/a", "/"},
		{"/w", "a", "/x/.", "/a", "/x/"},
		{"/w", "$EMPTY", "/x", "/", "/x"},
		{"", "a", "b", "/a", "/b"},
		{"w/", "a", "b", "/a", "/w/b"},
	} {
		src := "FROM a\nENV EMPTY=\n"
		if c.workdir != "" {
			src += "WORKDIR " + c.workdir + "\n"
		}
		p := mustPlan(t, src+"COPY "+c.src+" "+c.dest)
		cp := p.Steps[len(p.Steps)-1].Copy
		if cp.Sources[0] != c.wantSrc || cp.Dest != c.wantDest {
			t.Errorf("COPY %s %s in %q: %q to %q, want %q to %q", c.src, c.dest, c.workdir, cp.Sources[0], cp.Dest, c.wantSrc, c.wantDest)
		}
	}
	p := mustPlan(t, "FROM a\nENV L=\"a b\"\nCOPY $L /d/")
	if got := p.Steps[0].Copy.Sources; !slices.Equal(got, []string{"/a b"}) {
		t.Errorf("words are split before they expand: got %q", got)
	}
}

func TestHeredocsOfCopyExpandUnlessQuoted(t *testing.T) {
	p := mustPlan(t, "# escape=`\nFROM a\nENV V=val\nCOPY <<f <<\"g\" <<-h /d/\n$V \"q\" \\$V ${NO:-x}\nf\n$V \\$V\ng\n\t\ttabs $V\n\th\n")
	want := []Heredoc{{"f", "val \"q\" $V x\n"}, {"g", "$V \\$V\n"}, {"h", "tabs val\n"}}
	if got := p.Steps[0].Copy.Heredocs; !reflect.DeepEqual(got, want) {
		t.Errorf("heredocs %q, want %q", got, want)
	}
}

func TestAScriptOfRunIsAFileOutsideOfTheImage(t *testing.T) {
	p := mustPlan(t, "FROM a\nRUN <<EOF\n#!/usr/bin/python3\nprint(\"$x\")\nEOF\nRUN <<EOF\necho $x\nEOF\n")
	run := p.Steps[0].Run
	if want := (&Script{"/dev/pipes/EOF", "#!/usr/bin/python3\nprint(\"$x\")\n"}); !reflect.DeepEqual(run.Script, want) {
		t.Errorf("script %+v, want %+v", run.Script, want)
	}
	if !slices.Equal(run.Args, []string{"/bin/sh", "-c", "/dev/pipes/EOF"}) {
		t.Errorf("args %q", run.Args)
	}
	if run := p.Steps[1].Run; run.Script != nil || run.Args[2] != "echo $x\n" {
		t.Errorf("without #! the body is the shell's: %+v", run)
	}
	if got, want := p.Lines[1].Label, "[2/3] RUN <<EOF (#!/usr/bin/python3...)"; got != want {
		t.Errorf("label %q, want %q", got, want)
	}
}

func TestRunTakesWhatTheStageAndTheRequestSay(t *testing.T) {
	p, err := plan(t, "FROM a\nWORKDIR /w/\nUSER u\nRUN a\nRUN --network=none b\n", func(r *Request) {
		r.Hosts, r.Network = []string{"h:::1"}, "host"
	})
	if err != nil {
		t.Fatal(err)
	}
	a, b := p.Steps[1].Run, p.Steps[2].Run
	if a.Dir != "/w" || a.User != "u" || a.Network != "host" || b.Network != "none" || !slices.Equal(a.Hosts, []string{"h:::1"}) {
		t.Errorf("steps %+v, %+v", a, b)
	}
	if w := p.Steps[0].Workdir; w.Path != "/w" || w.User != "" || p.Target.Config.Config.WorkingDir != "/w/" {
		t.Errorf("WORKDIR step %+v, config %q", w, p.Target.Config.Config.WorkingDir)
	}
}

func TestWorkdirOfTheRootMakesNoStep(t *testing.T) {
	p := mustPlan(t, "FROM a\nWORKDIR /\nWORKDIR x/..\nWORKDIR //\nUSER 5\nWORKDIR y\n")
	if len(p.Steps) != 1 || *p.Steps[0].Workdir != (Workdir{"/y", "5"}) {
		t.Errorf("steps %v", p.Steps)
	}
	for _, h := range p.Target.Config.History[1:4] {
		if !h.EmptyLayer {
			t.Errorf("%s has a layer", h.CreatedBy)
		}
	}
}

func TestCommandsOfTheConfig(t *testing.T) {
	type cmds struct{ entry, cmd []string }
	sh := func(s string) []string { return []string{"/bin/sh", "-c", s} }
	for src, want := range map[string]cmds{
		"FROM img":                                        {nil, []string{"base"}},
		"FROM img\nENTRYPOINT [\"e\"]":                    {[]string{"e"}, nil},
		"FROM img\nCMD [\"c\"]\nENTRYPOINT [\"e\"]":       {[]string{"e"}, []string{"c"}},
		"FROM img\nENTRYPOINT [\"e\"]\nCMD c":             {[]string{"e"}, sh("c")},
		"FROM img AS x\nCMD a\nFROM x\nENTRYPOINT []":     {nil, nil},
		"FROM img\nCMD ['a']":                             {nil, sh("['a']")},
		"FROM img\nSHELL [\"s\"]\nCMD a  b\nENTRYPOINT c": {[]string{"s", "c"}, []string{"s", "a  b"}},
	} {
		p, err := planWith(t, src, map[string]*Base{"img": image(config.Config{Cmd: []string{"base"}})}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := p.Target.Config.Config
		if !slices.Equal(c.Entrypoint, want.entry) || !slices.Equal(c.Cmd, want.cmd) {
			t.Errorf("%q: entrypoint %q cmd %q, want %q %q", src, c.Entrypoint, c.Cmd, want.entry, want.cmd)
		}
		if c.ArgsEscaped != strings.Contains(src, "CMD") {
			t.Errorf("%q: ArgsEscaped is %v", src, c.ArgsEscaped)
		}
	}
}

func TestAnImageDoesNotTellHowItsBaseWasMade(t *testing.T) {
	base := image(config.Config{})
	base.Config.Author = "who made it"
	base.Config.Extra = map[string]json.RawMessage{"container_config": []byte(`{"Cmd":["x"]}`), "docker_version": []byte(`"1"`)}
	p, err := planWith(t, "FROM img AS a\nFROM a\nENV A=1", map[string]*Base{"img": base}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Target.Config; len(c.Extra) > 0 || c.Author != base.Config.Author {
		t.Errorf("author %q, and further keys %q", c.Author, c.Extra)
	}
	if len(base.Config.Extra) != 2 {
		t.Error("the base's own config has changed")
	}
}

func TestShellDoesNotChangeHealthchecks(t *testing.T) {
	p := mustPlan(t, "FROM a\nSHELL [\"/bin/bash\", \"-c\"]\nHEALTHCHECK --timeout=1m CMD curl $HOST\n")
	h := p.Target.Config.Config.Healthcheck
	if !slices.Equal(h.Test, []string{"CMD-SHELL", "curl $HOST"}) || h.Timeout.Seconds() != 60 {
		t.Errorf("healthcheck %+v", h)
	}
}

func TestExposedPorts(t *testing.T) {
	p := mustPlan(t, "FROM a\nEXPOSE 80 53/udp 9/SCTP 8000-8001 [::1]:80:90 0\n")
	want := map[string]struct{}{"80/tcp": {}, "53/udp": {}, "9/sctp": {}, "8000/tcp": {}, "8001/tcp": {}, "90/tcp": {}, "0/tcp": {}}
	if got := p.Target.Config.Config.ExposedPorts; !maps.Equal(got, want) {
		t.Errorf("ports %v, want %v", got, want)
	}
}

func TestFromExpandsGlobalArgumentsOnly(t *testing.T) {
	p, err := plan(t, "ARG V=1\nARG IMG=golang:$V\nFROM $IMG AS x\nARG W=2\nFROM debian:${W:-3}-$TARGETARCH\nCOPY --from=x / /\n", func(r *Request) { r.Args = map[string]string{"V": "9"} })
	if err != nil {
		t.Fatal(err)
	}
	if a, b := p.Stages[0].Base.Image.Name, p.Stages[1].Base.Image.Name; a != "golang:9" || b != "debian:3-amd64" {
		t.Errorf("bases %q and %q", a, b)
	}
}
