package plan

import (
	"errors"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// lastKey is the key of the last step of a Dockerfile.
func lastKey(t *testing.T, src string, change func(*Request)) digest.Digest {
	t.Helper()
	p, err := plan(t, src, change)
	if err != nil {
		t.Fatal(err)
	}
	k := digest.NewKey("step")
	p.Steps[len(p.Steps)-1].KeyFields(k)
	return k.Sum()
}

func TestKeysDifferInAllThatChangesWhatAStepMakes(t *testing.T) {
	seen := map[digest.Digest]string{}
	for _, src := range []string{
		"RUN a", "RUN a b", `RUN ["a", "b"]`, `RUN ["a b"]`, "RUN  b", "ENV A=1\nRUN a", "ARG A=2\nRUN a", "USER u\nRUN a", "WORKDIR /w\nRUN a", "RUN --network=none a", "SHELL [\"a\"]\nRUN a",
		"RUN <<E\n#!a\nE", "RUN <<E\n#!b\nE", "RUN <<F\n#!a\nF", "WORKDIR /w", "WORKDIR /v", "USER u\nWORKDIR /w",
		"COPY a /", "COPY b /", "COPY a b /", "COPY a /b", "COPY a /b/", "ADD a /", "COPY --chown=1 a /", "COPY --chmod=1 a /", "COPY --from=img a /",
		"COPY <<a /\na", "COPY <<a /\nb\na", "COPY <<b /\nb", "COPY <<a <<b /\na\nb",
	} {
		k := lastKey(t, "FROM a\n"+src, nil)
		if seen[k] != "" {
			t.Errorf("%q and %q have the same key", src, seen[k])
		}
		seen[k] = src
	}
}

func TestKeysAreEqualWhateverDoesNotChangeWhatAStepMakes(t *testing.T) {
	proxy := func(r *Request) { r.Args = map[string]string{"http_proxy": "x"} }
	hosts := func(r *Request) { r.Hosts = []string{"h:1.2.3.4"} }
	otherHosts := func(r *Request) { r.Hosts = []string{"h:::1"} }
	for name, c := range map[string]struct {
		a, b           string
		changeA, other func(*Request)
	}{
		"a proxy":              {"RUN a", "RUN a", nil, proxy},
		"the address of hosts": {"RUN a", "RUN a", hosts, otherHosts},
		"how it is written":    {"RUN a b", "run \\\n# c\na b", nil, nil},
		"labels":               {"RUN a", "LABEL a=b\nEXPOSE 1\nCMD x\nRUN a", nil, nil},
		"a stage's name":       {"FROM x AS s\nFROM a\nCOPY --from=s a /", "FROM x AS t\nFROM a\nCOPY --from=0 a /", nil, nil},
		"dots in paths":        {"COPY a /b", "COPY ./a /c/../b", nil, nil},
	} {
		if lastKey(t, "FROM a\n"+c.a, c.changeA) != lastKey(t, "FROM a\n"+c.b, c.other) {
			t.Errorf("%s changes the key", name)
		}
	}
	if lastKey(t, "FROM a\nRUN a", hosts) == lastKey(t, "FROM a\nRUN a", nil) {
		t.Error("a host's name does not change the key")
	}
}

func TestPlatforms(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "Linux/x86_64": "linux/amd64", "linux/aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/arm": "linux/arm/v7",
		"linux/arm/6": "linux/arm/v6", "armhf": "linux/arm/v7", "arm64": "linux/arm64", "linux": "linux/amd64", "linux/riscv64": "linux/riscv64", "linux/amd64/v1": "linux/amd64", "i386": "linux/386",
	} {
		got, err := ParsePlatform(in, amd64)
		if err != nil || got.String() != want {
			t.Errorf("%q: got %v, %v, want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "foo", "linux/", "/amd64", "a/b/c/d", "linux/am d", "linux(1)/amd64"} {
		if got, err := ParsePlatform(bad, amd64); err == nil {
			t.Errorf("%q passes as %v", bad, got)
		}
	}
}

func TestAHostileFileCannotGrow(t *testing.T) {
	double := "FROM a\nENV A=xxxxxxxx\n" + strings.Repeat("ENV A=$A$A\n", 40)
	got := mistakes(t, double, nil)
	if len(got) == 0 || !strings.Contains(got[0], "more than 64 MB") {
		t.Errorf("doubling forty times: %.200q", got)
	}
	history := "FROM a\nARG A=" + strings.Repeat("x", 60000) + "\n" + strings.Repeat("RUN x\n", 4000)
	if got := mistakes(t, history, nil); len(got) == 0 {
		t.Error("history of 240 MB")
	}
	ports := "FROM a\n" + strings.Repeat("EXPOSE 0-65535/tcp 0-65535/udp\n", 1000)
	if got := mistakes(t, ports, nil); len(got) == 0 {
		t.Error("history of 2 GB")
	}
	chain := "FROM scratch AS s0\n"
	for i := 1; i < 2000; i++ {
		chain += "FROM s" + strings.Repeat("x", i%7) + " AS s\nCOPY --from=1999 / /\n"
	}
	mistakes(t, chain, nil)
}

func TestTriggersOfABaseAreCounted(t *testing.T) {
	base := image(config.Config{OnBuild: make([]string, dockerfile.MaxInstructions+1)})
	_, err := planWith(t, "FROM b", map[string]*Base{"b": base}, nil)
	var errs dockerfile.Errors
	if !errors.As(err, &errs) || len(errs) != 1 {
		t.Errorf("got %d mistakes", len(errs))
	}
}

// FuzzNew: whatever parses can be planned or is refused with positions; every
// step comes after its needs, and planning twice gives the same.
func FuzzNew(f *testing.F) {
	for _, seed := range []string{
		"FROM a AS x\nRUN a\nFROM x\nCOPY --from=x a b\n", "ARG A\nFROM $A\nENV a=$b c=${d:-e}\n", "FROM a\nCOPY --from=1 a b\nFROM b\nCOPY --from=0 / /\n",
		"FROM a AS b\nONBUILD COPY --from=b <<x /\nx\nFROM b\nWORKDIR x\n", "FROM --platform=$BUILDPLATFORM a\nEXPOSE 1-3/udp $X\nHEALTHCHECK CMD x\nSTOPSIGNAL 9\n",
		"# check=error=true;experimental=all\nFROM a AS B\nRUN --mount=type=secret,id=$x,required --mount=type=cache,target=/c,from=b,sharing=locked --mount=type=ssh --mount=target=/x,rw a\nCOPY --parents --exclude=x a/./b /\nCPOY\n",
		"FROM a AS x\nCOPY --from=y / /\nFROM x AS y\nCOPY --from=z / /\nFROM b AS z\nARG T=${B:?x}\nEXPOSE $T\n",
		"FROM scratch\nADD --chmod=u+x --chown=$a a* .\nCMD x\nENTRYPOINT [\"y\"]\nVOLUME a\nUSER b\nLABEL a b\n",
	} {
		f.Add(seed, "", "A")
	}
	f.Fuzz(func(t *testing.T, src, target, arg string) {
		file, err := dockerfile.Parse("Dockerfile", []byte(src))
		if file == nil {
			return
		}
		r := Request{
			File: file, Target: target, AllStages: target == "", Args: map[string]string{arg: "v"}, BuildPlatform: amd64, Images: map[Ref]*Base{},
			Ignored: func(name string) bool { return strings.HasPrefix(name, "a") },
		}
		wrong := err != nil // then only that nothing panics is of interest
		p, err := New(r)
		for n := 0; n < 100; n++ {
			var m *Missing
			if !errors.As(err, &m) {
				break
			}
			for _, ref := range m.Refs {
				r.Images[ref] = image(config.Config{OnBuild: []string{"COPY --from=b /x /y"}, Env: []string{"E=1"}})
			}
			p, err = New(r)
		}
		var errs dockerfile.Errors
		if err != nil {
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("error is %#v", err)
			}
			checkMistakes(t, src, errs)
			checkWarnings(t, src, p.Warnings)
			return
		}
		checkWarnings(t, src, p.Warnings)
		checkPlan(t, p)
		if wrong {
			return
		}
		if _, err := NewOutline(r); err != nil {
			t.Fatalf("there is a plan and no outline: %v", err)
		}
		again, err := New(r)
		if err != nil || again.Lines[len(again.Lines)-1].State != p.Lines[len(p.Lines)-1].State || len(again.Steps) != len(p.Steps) {
			t.Fatalf("planned twice, got two plans (%v)", err)
		}
	})
}

// checkMistakes holds every mistake to a line of the file; only what is about
// the file as a whole has none.
func checkMistakes(t *testing.T, src string, errs dockerfile.Errors) {
	lines := strings.Count(src, "\n") + 1
	for _, e := range errs {
		whole := e.Line == 0 && (strings.HasPrefix(e.Msg, "target stage ") || strings.HasPrefix(e.Msg, "lint violation found for rules: ") ||
			strings.HasPrefix(e.Msg, "failed to parse build-arg:") || e.Msg == "dockerfile contains no stages to build")
		if e.Msg == "" || !whole && (e.Line < 1 || e.EndLine < e.Line || e.EndLine > lines) {
			t.Fatalf("mistake outside of %d lines: %+v", lines, e)
		}
	}
}

func checkWarnings(t *testing.T, src string, list []dockerfile.Warning) {
	lines := strings.Count(src, "\n") + 1
	for _, w := range list {
		if w.Rule == "" || w.Msg == "" || w.Line < 0 || w.Line > lines || w.EndLine < w.Line || w.EndLine > lines || w.Line == 0 && !w.Own {
			t.Fatalf("warning outside of %d lines: %+v", lines, w)
		}
	}
}

func checkPlan(t *testing.T, p *Plan) {
	layers := 0
	for _, h := range p.Target.Config.History {
		if h.Comment == config.Comment && !h.EmptyLayer {
			layers++
		}
	}
	chain := 0
	for s := p.Target.Root.Step; s != nil; s = s.Below.Step {
		chain++
	}
	if layers != chain {
		t.Fatalf("history tells of %d layers, and there are %d", layers, chain)
	}
	for i, s := range p.Steps {
		if s.ID != i || s.Line.Step != s {
			t.Fatalf("step %d is %+v", i, s)
		}
		for _, d := range s.Deps {
			if d.ID >= i {
				t.Fatalf("step %d needs step %d", i, d.ID)
			}
		}
		if c := s.Copy; c != nil && (!strings.HasPrefix(c.Dest, "/") || len(c.Sources)+len(c.Heredocs) == 0) {
			t.Fatalf("copy %+v", c)
		}
	}
}
