package plan

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

func TestStagesThatTheTargetDoesNotNeedAreLeftOut(t *testing.T) {
	const src = "FROM a AS x\nRUN x\nFROM b AS y\nRUN y\nFROM x AS z\nRUN z\nFROM c AS w\nCOPY --from=y / /\n"
	for target, want := range map[string]string{"": "y w", "x": "x", "Z": "x z", "w": "y w", "y": "y"} {
		p, err := plan(t, src, func(r *Request) { r.Target = target })
		if err != nil {
			t.Fatal(err)
		}
		if got := stageNames(p); got != want {
			t.Errorf("target %q plans %q, want %q", target, got, want)
		}
	}
}

func TestImagesOfStagesThatAreNotNeededAreNotAskedFor(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM a AS x\nFROM b\nCOPY --from=c /f /\nFROM d\nCOPY --from=x / /\nCOPY --from=e / /\nCOPY --from=e /1 /\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(Request{File: f, BuildPlatform: amd64})
	var m *Missing
	if !errors.As(err, &m) {
		t.Fatalf("got %v, want a *Missing", err)
	}
	want := []Ref{{"a", amd64}, {"d", amd64}, {"e", amd64}}
	if !reflect.DeepEqual(m.Refs, want) {
		t.Errorf("refs %v, want %v", m.Refs, want)
	}
	errs := m.Failed(map[Ref]error{{"e", amd64}: errors.New("not found")})
	if len(errs) != 2 || errs[0].Line != 6 || errs[1].Line != 7 {
		t.Errorf("an image that is not found is reported as %v, want lines 6 and 7", errs)
	}
}

func TestAStepComesAfterAllThatItNeeds(t *testing.T) {
	p := mustPlan(t, "FROM a AS x\nRUN 1\nRUN 2\nFROM x AS y\nRUN 3\nFROM scratch\nCOPY --from=x / /x\nCOPY --from=y / /y\nWORKDIR /w\nCOPY c /\n")
	var got [][]int
	for i, s := range p.Steps {
		if s.ID != i {
			t.Errorf("step %d has ID %d", i, s.ID)
		}
		deps := []int{}
		for _, d := range s.Deps {
			if d.ID >= s.ID {
				t.Errorf("step %d needs step %d, which comes later", s.ID, d.ID)
			}
			deps = append(deps, d.ID)
		}
		got = append(got, deps)
	}
	want := [][]int{{}, {0}, {1}, {1}, {3, 2}, {4}, {5}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("needs %v, want %v", got, want)
	}
	if p.Target.Root.Step != p.Steps[6] || p.Target.Base != (Root{}) {
		t.Errorf("the target leaves %v on %v", p.Target.Root, p.Target.Base)
	}
}

func TestCopyFromFindsStagesByNumberNameOfAnyCaseAndImages(t *testing.T) {
	p := mustPlan(t, "FROM a AS one\nWORKDIR /src\nRUN x\nFROM scratch\nCOPY --from=0 /a /\nCOPY --from=ONE /a /\nCOPY --from=img /a /\nCOPY /a /\nCOPY --from=scratch / /\n")
	var got []string
	for _, s := range p.Steps[2:] {
		c := s.Copy
		switch {
		case c.From == nil:
			got = append(got, "context")
		case c.From.Image != nil:
			got = append(got, "image "+c.From.Image.Name)
		case c.From.Step == nil:
			got = append(got, "nothing")
		default:
			got = append(got, "stage "+c.FromStage.Display+" "+c.Dir+" "+c.From.Step.Line.Text)
		}
	}
	want := []string{"stage one /src RUN x", "stage one /src RUN x", "image img", "context", "nothing"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if w := warnings(p, "StageByNumber"); len(w) != 1 || w[0].Line != 5 || !strings.Contains(w[0].Hint, "--from=one") {
		t.Errorf("a stage used by number gives %v", w)
	}
}

func TestFromTakesTheNearestStageAboveAndCopyTheLastOfTheFile(t *testing.T) {
	p := mustPlan(t, "FROM a AS x\nENV WHO=first\nFROM x\nFROM b AS x\nENV WHO=second\nFROM x\nCOPY --from=x / /\n")
	if got := stageNames(p); got != "x stage-3" || p.Stages[0].Index != 2 {
		t.Errorf("planned %q", got)
	}
	got := mistakes(t, "FROM a AS x\nFROM b AS y\nCOPY --from=x / /\nFROM c AS x\n", func(r *Request) { r.Target = "y" })
	if len(got) != 1 || !strings.Contains(got[0], `Dockerfile:3: cannot copy from stage "x", it needs to be defined before current stage "y"`) {
		t.Errorf("got %q", got)
	}
}

func TestScratchHasAPathAndARootDirectoryAndNoHistory(t *testing.T) {
	p := mustPlan(t, "FROM scratch\n")
	b, err := p.Target.Config.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"architecture":"amd64","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"created":null,"history":null,"os":"linux","rootfs":{"type":"layers","diff_ids":null}}`
	if string(b) != want {
		t.Errorf("config\n%s\nwant\n%s", b, want)
	}
}

func TestTheBaseKeepsItsConfigButForTimeAndTriggers(t *testing.T) {
	base := image(config.Config{Env: []string{"A=1"}, OnBuild: []string{"ENV T=1"}, User: "u", Labels: map[string]string{"l": "1"}, Cmd: []string{"c"}})
	p, err := planWith(t, "FROM base\n", map[string]*Base{"base": base}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := p.Target.Config
	if want := []string{"A=1", "PATH=" + config.DefaultPath, "T=1"}; !slices.Equal(c.Config.Env, want) {
		t.Errorf("env %q, want %q", c.Config.Env, want)
	}
	if c.Config.OnBuild != nil || c.Created != nil || c.Config.User != "u" || len(c.DiffIDs) != 1 || c.History[0].CreatedBy != "base" {
		t.Errorf("config %+v", c)
	}
	if !slices.Equal(base.Config.Config.Env, []string{"A=1"}) || len(base.Config.Config.OnBuild) != 1 || len(base.Config.History) != 1 {
		t.Errorf("the base was changed: %+v", base.Config)
	}
}

func TestLabelsOfTheRequestComeLastWithoutHistory(t *testing.T) {
	p, err := plan(t, "FROM scratch\nLABEL a=file b=file\n", func(r *Request) { r.Labels = []string{"a=asked", "c=d=e", "f"} })
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "asked", "b": "file", "c": "d=e", "f": ""}
	if !maps.Equal(p.Target.Config.Config.Labels, want) || len(p.Target.Config.History) != 1 {
		t.Errorf("labels %v, history %v", p.Target.Config.Config.Labels, history(p))
	}
}

func TestOnbuildTriggersFireOnceInTheChild(t *testing.T) {
	const src = "FROM a AS tool\nRUN make\nFROM b AS base\nONBUILD COPY --from=tool /bin /bin\nONBUILD ENV GREET=$WHO\nENV WHO=me\nFROM base AS child\nRUN go\nFROM child AS grandchild\nRUN end\n"
	p := mustPlan(t, src)
	if got, want := stageNames(p), "tool base child grandchild"; got != want {
		t.Errorf("planned %q, want %q", got, want)
	}
	want := []string{"!ENV WHO=me", "COPY /bin /bin # buildkit", "!ENV GREET=me", "RUN /bin/sh -c go # buildkit", "RUN /bin/sh -c end # buildkit"}
	if got := history(p); !slices.Equal(got, want) {
		t.Errorf("history %q, want %q", got, want)
	}
	child := p.Stages[2]
	if l := child.Lines[1]; !l.Trigger || l.Pos.Line != 7 || l.Label != "[child 1/3] ONBUILD COPY --from=tool /bin /bin" {
		t.Errorf("the trigger's line is %+v", l)
	}
	if p.Stages[1].Config.Config.OnBuild == nil || child.Config.Config.OnBuild != nil {
		t.Error("triggers belong to the stage that says them and not to its child")
	}
}

func TestTriggersOfImagesMayNeedMoreImagesAndStages(t *testing.T) {
	images := map[string]*Base{
		"base:onbuild": image(config.Config{OnBuild: []string{"COPY --from=helper /h /h", "COPY --from=more /m /m", "COPY . /app"}}),
	}
	const src = "FROM tiny AS helper\nRUN h\nFROM base:onbuild\n"
	p, err := planWith(t, src, images, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := stageNames(p); got != "helper stage-1" {
		t.Errorf("planned %q", got)
	}
	if got := p.Steps[2].Copy.From.Image.Name; got != "more" {
		t.Errorf("second trigger copies from %q", got)
	}
	images["base:onbuild"] = image(config.Config{OnBuild: []string{"FORM x", "ONBUILD RUN x", "FROM y", "COPY --from=9 / /", "MAINTAINER x"}})
	_, err = planWith(t, src, images, nil)
	errs, _ := err.(dockerfile.Errors)
	if len(errs) != 5 {
		t.Fatalf("got %v, want five mistakes", err)
	}
	for _, e := range errs {
		if e.Line != 3 {
			t.Errorf("%v: want line 3, the FROM", e)
		}
	}
}

func TestLinesAreNumberedInFileOrder(t *testing.T) {
	p := mustPlan(t, "ARG V=1\nfrom golang:$V as build\nWORKDIR /src\nRUN go \\\n  build\nFROM unused\nFROM scratch\nCOPY --from=build /a /\nENV A=1\n")
	var got []string
	for _, l := range p.Lines {
		got = append(got, l.Text+" | "+l.Label)
	}
	want := []string{
		"from golang:$V as build | [build 1/3] FROM golang:1",
		"WORKDIR /src | [build 2/3] WORKDIR /src",
		"RUN go   build | [build 3/3] RUN go   build",
		"FROM scratch | FROM scratch",
		"COPY --from=build /a / | [stage-2 1/1] COPY --from=build /a /",
		"ENV A=1 | ENV A=1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("lines\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i, l := range p.Lines {
		if l.Number != i+1 {
			t.Errorf("line %d has number %d", i+1, l.Number)
		}
	}
	if l := p.Lines[5]; l.History != 1 || l.Stage.Config.History[l.History].CreatedBy != "ENV A=1" || l.Step != nil {
		t.Errorf("line of ENV: %+v", l)
	}
}

func TestTheOnlyStageIsNotNamedInLabels(t *testing.T) {
	p := mustPlan(t, "FROM a AS x\nRUN echo $HOME \"$PATH\"\n")
	if got, want := p.Lines[1].Label, `[2/2] RUN echo $HOME "/bin"`; got != want {
		t.Errorf("label %q, want %q", got, want)
	}
	p = mustPlan(t, "FROM a\nCOPY --from=b / /\n"+strings.Repeat("RUN x\n", 9))
	if got, want := p.Lines[1].Label, `[stage-0  2/11] COPY --from=b / /`; got != want {
		t.Errorf("label %q, want %q", got, want)
	}
}

func TestStateTellsConfigsApart(t *testing.T) {
	state := func(src string) digest.Digest {
		p := mustPlan(t, src)
		return p.Lines[len(p.Lines)-1].State
	}
	base := state("FROM a\nENV A=1\n")
	if base != state("FROM a\nENV A=1\n") || base != state("FROM a AS other\n\n# x\nenv A=1\n") {
		t.Error("the same config has two states")
	}
	seen := map[digest.Digest]string{base: "ENV A=1"}
	for _, src := range []string{"", "ENV A=2", "ENV A=1 B=2", `ENV A="1 B=2"`, "LABEL A=1", "ARG A=1", "ENV A=1\nENV A=1", "ONBUILD ENV A=1", "USER A=1"} {
		s := state("FROM a\n" + src + "\n")
		if seen[s] != "" {
			t.Errorf("%q and %q have the same state", src, seen[s])
		}
		seen[s] = src
	}
	if state("FROM a AS x\nENV A=1\nFROM x\n") != base {
		t.Error("FROM stage changes the state")
	}
}

func TestThePlanOfThePlatformAskedForSaysSo(t *testing.T) {
	arm := Platform{OS: "linux", Arch: "arm64"}
	for _, c := range []struct {
		src, asked, want string
	}{
		{"FROM a\n", "", "amd64"},
		{"FROM a\n", "linux/arm64", "arm64"},
		{"FROM scratch\n", "linux/arm64", "arm64"},
		{"FROM --platform=linux/arm64 a AS arm64\n", "", "amd64"}, // the test's image says amd64
	} {
		p, err := plan(t, c.src, func(r *Request) {
			if c.asked != "" {
				r.Platform = arm
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Target.Config.Architecture; got != c.want {
			t.Errorf("%q asked for %q: architecture %s, want %s", c.src, c.asked, got, c.want)
		}
	}
	p, err := plan(t, "FROM --platform=$BUILDPLATFORM a AS b\nRUN x\nFROM c\nRUN y\nFROM --platform=arm64 b\nCOPY --from=1 / /\nRUN z", func(r *Request) { r.Platform = arm })
	if err != nil {
		t.Fatal(err)
	}
	got := []Platform{p.Steps[0].Run.Platform, p.Steps[1].Run.Platform, p.Steps[3].Run.Platform}
	if want := []Platform{amd64, arm, amd64}; !slices.Equal(got, want) {
		t.Errorf("platforms %v, want %v", got, want)
	}
}

// BenchmarkNew is what a build pays before its first key: reading and planning
// a file of thirty instructions in three stages.
func BenchmarkNew(b *testing.B) {
	src := []byte("ARG V=1\nFROM golang:$V AS build\nWORKDIR /src\n" + strings.Repeat("ENV A=1 B=$PATH\nARG C=2\nCOPY a b\nRUN go build -o /x $A\n", 5) +
		"FROM build AS test\nRUN go test\nFROM scratch\nCOPY --from=build /x /x\nENTRYPOINT [\"/x\"]\n")
	images := map[Ref]*Base{{"golang:1", amd64}: image(config.Config{Env: []string{"PATH=/bin"}})}
	for b.Loop() {
		f, err := dockerfile.Parse("Dockerfile", src)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := New(Request{File: f, BuildPlatform: amd64, Images: images}); err != nil {
			b.Fatal(err)
		}
	}
}
