package whittle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/progress"
)

func TestABuildThatIsRepeatedRunsAndWritesNothing(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		first := h.mustBuild(threeStages, tags("app"))
		if first.Ran != 6 || first.Cached != 0 {
			t.Errorf("the first build ran %d steps and took %d from the cache", first.Ran, first.Cached)
		}
		// It must need no provider: nothing is mounted.
		h.open()
		whittle.WithoutProvider(h.Whittle)
		h.mustBuild(threeStages, tags("app")) // another context folder: fills its stat cache
		before := h.files()
		again := h.mustBuild(threeStages, tags("app"))
		if again.Ran != 0 || again.Cached != 6 || again.ID != first.ID {
			t.Errorf("the second build ran %d steps and made %s, want none and %s", again.Ran, again.ID.Short(), first.ID.Short())
		}
		after := h.files()
		for name := range after {
			if before[name] != after[name] && !strings.HasPrefix(name, "cache/") {
				t.Errorf("a build of which nothing ran wrote %s", name)
			}
		}
		if n := len(before) - len(after); n > 0 {
			t.Errorf("%d files are gone", n)
		}
	})
}

// files tells all files of the store by inode, size and time.
func (h *workshop) files() map[string]string {
	h.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil {
			out[strings.TrimPrefix(path, h.root+"/")] = fmt.Sprint(i.Size(), i.ModTime(), i.Sys())
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	// Access times are no writing.
	for n, text := range out {
		fields := strings.Fields(text)
		out[n] = strings.Join(fields[:min(4, len(fields))], " ")
	}
	return out
}

func TestAContextThatDidNotChangeIsNotReadAgain(t *testing.T) {
	h := newWorkshop(t, "")
	h.base("base")
	dir := folder(t, map[string]string{"Dockerfile": "FROM base\nCOPY data /\n", "data/a": "a", "data/b": "b"})
	build := func() {
		t.Helper()
		if _, err := h.Build(t.Context(), whittle.Request{Context: dir}); err != nil {
			t.Fatal(err)
		}
	}
	build()
	time.Sleep(50 * time.Millisecond) // files younger than the clock's grain are not trusted
	build()
	opened := watchOpens(t, filepath.Join(dir, "data/a"), filepath.Join(dir, "data/b"))
	build()
	if n := opened(); n != 0 {
		t.Errorf("files of the context were opened %d times", n)
	}
}

func TestEarlyCutOff(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		h.mustBuild(threeStages, nil)
		r := h.mustBuild(strings.Replace(threeStages, "RUN cat a /tool > out", "RUN cat a /tool > out && touch /other", 1), nil)
		if r.Ran != 1 {
			t.Errorf("%d steps ran after a change that left the file the same, want the changed one", r.Ran)
		}
	})
}

func TestTheImageSaysWhatTheDockerfileSays(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base", "LABEL from=base")
		r := h.mustBuild(threeStages, tags("app:1", "other"))
		c := h.config(r.ID)
		if !slices.Equal(c.Config.Cmd, []string{"cat", "/again"}) || c.Config.Labels["from"] != "base" || len(c.DiffIDs) != 3 || r.Layers != 3 {
			t.Errorf("config %+v with %d layers", c.Config, len(c.DiffIDs))
		}
		if c.Created == nil || len(c.History) != 4 || !c.History[3].Created.Equal(*c.Created) {
			t.Errorf("created %v, history %+v", c.Created, c.History)
		}
		for _, n := range []string{"app:1", "other"} {
			if s, err := h.Image(n); err != nil || s.Image.ID != r.ID {
				t.Errorf("%s: %v", n, err)
			}
		}
		// /tool in tools; a and out in build: what build has of tools counts once.
		want := []whittle.Behind{{Stage: "tools", Bytes: 5}, {Stage: "build", Bytes: 2 + 7}}
		if !slices.Equal(r.Behind, want) {
			t.Errorf("left behind %+v, want %+v", r.Behind, want)
		}
	})
}

func TestAnEpochIsTheTimeOfAllThatABuildMakes(t *testing.T) {
	const text = "FROM base\nWORKDIR /made/here\nCOPY a /also/made/\nENV X=1\n"
	at := func(s string) func(*whittle.Request) {
		return func(r *whittle.Request) { r.SourceDateEpoch = s }
	}
	var ids []string
	everyProvider(t, func(t *testing.T, h *workshop) {
		now := time.Now()
		h.opt.Now = func() time.Time { now = now.Add(time.Hour); return now }
		h.open()
		h.base("base")
		dir := folder(t, map[string]string{"Dockerfile": text, "a": "a"})
		old := time.Unix(1e9, 0)
		if err := os.Chtimes(filepath.Join(dir, "a"), old, old); err != nil {
			t.Fatal(err)
		}
		in := func(c func(*whittle.Request)) func(*whittle.Request) {
			return func(r *whittle.Request) { r.Context = dir; c(r) }
		}
		r := h.mustBuild(text, in(at("1700000000")))
		c := h.config(r.ID)
		for i, e := range c.History {
			if own := i > 0; own && e.Created.Unix() != 1700000000 || !own && e.Created.Unix() == 1700000000 {
				t.Errorf("entry %d of the history is of %v", i, e.Created)
			}
		}
		if c.Created.Unix() != 1700000000 {
			t.Errorf("created %v", c.Created)
		}
		if other := h.mustBuild(text, in(at("1700000001"))); other.ID == r.ID || other.Ran == 0 {
			t.Error("another epoch gives the same image")
		}
		arg := h.mustBuild(text, in(func(r *whittle.Request) { r.Args = map[string]string{"SOURCE_DATE_EPOCH": "1700000000"} }))
		if arg.ID != r.ID {
			t.Errorf("as a build argument it gives %s, not %s", arg.ID.Short(), r.ID.Short())
		}
		s, err := h.Image(r.ID.String())
		if err != nil {
			t.Fatal(err)
		}
		var layers []string
		for _, l := range s.Image.Layers[1:] {
			layers = append(layers, l.DiffID.Hex())
		}
		ids = append(ids, strings.Join(layers, " "))
	})
	if len(ids) == 2 && ids[0] != ids[1] {
		t.Errorf("the providers made other layers: %s and %s", ids[0], ids[1])
	}
}

func TestAnEpochThatIsNoTimeIsRefusedBeforeAnythingRuns(t *testing.T) {
	h := newWorkshop(t, "")
	for _, s := range []string{"yesterday", "-1", "1.5", "0x10", "1e9", " 1", "253402300800", "99999999999999999999"} {
		if _, err := h.build("FROM scratch\n", func(r *whittle.Request) { r.SourceDateEpoch = s }); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"0", "253402300799"} {
		if _, err := h.build("FROM scratch\nCOPY a /\n", func(r *whittle.Request) { r.SourceDateEpoch = s }); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestNoCacheRunsAllSteps(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		h.mustBuild(threeStages, nil)
		r := h.mustBuild(threeStages, func(r *whittle.Request) { r.NoCache, r.Jobs = true, 1 })
		if r.Ran != 6 {
			t.Errorf("%d steps ran", r.Ran)
		}
		if again := h.mustBuild(threeStages, nil); again.Ran != 0 || again.ID != r.ID {
			t.Errorf("afterwards %d steps ran and made %s, want %s", again.Ran, again.ID.Short(), r.ID.Short())
		}
	})
}

func TestBuildsAtOnceMakeTheSameImage(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		dir := folder(t, map[string]string{"Dockerfile": threeStages, "a": "a"})
		var mu sync.Mutex
		ids, ran := map[digest.Digest]bool{}, 0
		var wg sync.WaitGroup
		for i := range 6 {
			if i%2 == 1 {
				h.open()
			}
			w := h.Whittle
			wg.Go(func() {
				r, err := w.Build(t.Context(), whittle.Request{Context: dir, Tags: []string{"app"}, Jobs: i % 3})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
				ids[r.ID] = true
				ran += r.Ran
			})
		}
		wg.Wait()
		if len(ids) != 1 || ran != 6 {
			t.Errorf("%d images, %d steps ran, want one and each step once", len(ids), ran)
		}
	})
}

func TestABuildThatIsStoppedSaysWhyAndLeavesNothing(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		why := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		sink := sinkFunc(func(e progress.Event) {
			if e.Kind == progress.Log {
				cancel(why)
			}
		})
		dir := folder(t, map[string]string{"Dockerfile": "FROM base\nRUN echo started; sleep 100\n"})
		if _, err := h.Build(ctx, whittle.Request{Context: dir, Sink: sink}); !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
		if left, err := os.ReadDir(filepath.Join(h.root, "tmp")); err != nil || len(left) > 0 {
			t.Errorf("left in tmp: %v, %v", left, err)
		}
	})
}

type sinkFunc func(progress.Event)

func (f sinkFunc) Emit(e progress.Event) { f(e) }

func TestWhatAKilledBuildLeftGoesWithTheNextThatWorks(t *testing.T) {
	h := newWorkshop(t, "")
	rubbish := filepath.Join(h.root, "tmp", "run-of-a-dead-process")
	if err := os.MkdirAll(filepath.Join(rubbish, "tree"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.mustBuild("FROM scratch\nCOPY a /\n", nil)
	if _, err := os.Lstat(rubbish); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestWhatIsBuiltIsDurable(t *testing.T) {
	h := newWorkshop(t, "")
	h.mustBuild("FROM scratch\nCOPY a /\n", tags("app"))
	if marks, _ := filepath.Glob(filepath.Join(h.root, "layers/*/*/.fresh*")); len(marks) > 0 {
		t.Errorf("not flushed: %v", marks)
	}
}

func TestAnImageMadeHereIsNeverReplacedByARegistrysOfThatName(t *testing.T) {
	h := newWorkshop(t, "")
	h.mustBuild("FROM scratch\nCOPY a /\n", tags("mine"))
	s, err := h.Image("mine")
	if err != nil {
		t.Fatal(err)
	}
	id := s.Image.Layers[0].ID.Hex()
	if err := os.RemoveAll(filepath.Join(h.root, "layers", id[:2], id)); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"mine", s.Image.ID.String()} {
		_, err = h.build("FROM "+ref+"\nCOPY a /b\n", nil)
		if err == nil || !strings.Contains(err.Error(), "is not in the store") || strings.Contains(err.Error(), "registry") {
			t.Errorf("FROM %s: %v", ref, err)
		}
	}
	if _, err := h.Create(t.Context(), whittle.RunRequest{Image: "mine", Args: []string{"x"}}, progress.Discard{}); err == nil {
		t.Error("a container was made of an image without its layer")
	}
}

// Attack 28: a pulled image was taken for the result of a build.
func TestAttack28_AnImageThatComesFromElsewhereIsNeverACacheEntry(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		const text = "FROM base\nRUN echo good > /file\nCOPY a /a\n"
		first := h.mustBuild(text, tags("app"))
		var archive bytes.Buffer
		if err := h.Save(t.Context(), &archive, []string{"app", "base"}, "docker", whittle.Compression{Format: "uncompressed"}); err != nil {
			t.Fatal(err)
		}
		other := newWorkshop(t, h.opt.Rootfs)
		if _, err := other.Load(t.Context(), &archive); err != nil {
			t.Fatal(err)
		}
		if s, err := other.Image("app"); err != nil || s.Image.ID != first.ID {
			t.Fatalf("loaded %v, %v", s.Image, err)
		}
		if r := other.mustBuild(text, nil); r.Cached != 0 || r.Ran != 2 {
			t.Errorf("%d steps came from an image that was loaded", r.Cached)
		}
	})
}

// Attack 28: instructions and fields of the config that were in no key.
func TestAttack28_EveryInstructionChangesTheImageAndWhatReadsItTheKey(t *testing.T) {
	h := newWorkshop(t, "")
	h.base("base")
	h.base("other", "LABEL other=1")
	const run = "RUN echo x > /tmp/x\n"
	plain := h.mustBuild("FROM base\n"+run, nil)
	images := map[digest.Digest]string{plain.ID: "nothing"}
	for text, keyed := range map[string]bool{
		"ENV A=1": true, "ENV A=2": true, "ARG A=3": true, "USER 0:0": true, "USER 1:1": true, "WORKDIR /w": true,
		`SHELL ["/bin/sh", "-e", "-c"]`: true, "COPY a /a": true, "ADD a /b": true, "RUN true": true,
		"LABEL a=1": false, "EXPOSE 80": false, "EXPOSE 80/udp": false, "VOLUME /v": false, `CMD ["x"]`: false,
		`ENTRYPOINT ["x"]`: false, "STOPSIGNAL 9": false, "HEALTHCHECK CMD true": false, "HEALTHCHECK --retries=2 CMD true": false,
		"HEALTHCHECK NONE": false, "ONBUILD RUN true": false, "MAINTAINER me": false,
	} {
		r := h.mustBuild("FROM base\n"+text+"\n"+run, nil)
		if other, ok := images[r.ID]; ok {
			t.Errorf("%s gives the image of %s", text, other)
		}
		images[r.ID] = text
		if ran := r.Ran > 0; ran != keyed {
			t.Errorf("%s before a RUN: %d steps ran, %d were cached", text, r.Ran, r.Cached)
		}
	}
	for name, change := range map[string]func(*whittle.Request){
		"a host":    func(r *whittle.Request) { r.Hosts = []string{"db:10.0.0.1"} },
		"a network": func(r *whittle.Request) { r.Network = "none" },
	} {
		if r := h.mustBuild("FROM base\n"+run, change); r.Ran != 1 {
			t.Errorf("%s is not in the key", name)
		}
	}
	// From scratch is not from an image without layers, nor from another image.
	scratch := h.mustBuild("FROM scratch\nCOPY a /a\n", nil)
	if r := h.mustBuild("FROM base\nCOPY a /a2\n", nil); r.ID == scratch.ID || r.Ran != 1 {
		t.Error("a base image is not in the key")
	}
	if r := h.mustBuild("FROM other\n"+run, nil); r.Ran != 0 || images[r.ID] != "" {
		t.Errorf("an image with the same files: %d steps ran, the image is that of %q", r.Ran, images[r.ID])
	}
}

// Attack 29: fields that were joined made different builds equal.
func TestAttack29_ArgumentsThatLookAlikeWhenJoinedAreDifferent(t *testing.T) {
	h := newWorkshop(t, "")
	h.base("base")
	const text = "FROM base\nARG A\nARG B\nRUN echo \"[$A][$B]\" > /x\n"
	seen := map[digest.Digest]string{}
	for _, args := range []map[string]string{
		{"A": "1", "B": "2"}, {"A": "1 B=2", "B": ""}, {"A": "1,B=2"}, {"A": "1", "B": "2 "}, {"B": "1"}, {"A": "", "B": "1"}, {"A": "1-2", "B": ""}, {"A": "1", "B": "-2"},
	} {
		r := h.mustBuild(text, func(r *whittle.Request) { r.Args = args })
		what := fmt.Sprint(args)
		if other, ok := seen[r.ID]; ok || r.Ran != 1 {
			t.Errorf("%s is %q, %d steps ran", what, other, r.Ran)
		}
		seen[r.ID] = what
	}
}

// Attack 31 and 32: what a step is given and must not leave a trace of.
func TestAttack31_ProxiesAreInNoKeyNoImageAndNoRecord(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		const text = "FROM base\nRUN [ -n \"$HTTPS_PROXY\" ] && [ -n \"$https_proxy\" ] && echo ok > /x\n"
		proxy := func(v string) func(*whittle.Request) {
			return func(r *whittle.Request) { r.Args = map[string]string{"HTTPS_PROXY": v} }
		}
		first := h.mustBuild(text, proxy("http://user:canary@127.0.0.1:9"))
		again := h.mustBuild(text, proxy("http://other:canary@127.0.0.1:9"))
		if again.Ran != 0 || again.ID != first.ID {
			t.Error("another proxy runs the step again")
		}
		err := filepath.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte("canary")) {
				t.Errorf("%s tells the proxy", strings.TrimPrefix(path, h.root))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestMistakesOfFileAndContextAreToldBeforeAnythingRuns(t *testing.T) {
	h := newWorkshop(t, "")
	h.base("base")
	_, err := h.build("FROM base\nRUN touch /ran\nCOPY missing /\nCOPY --from=base /nowhere /\n", nil)
	if err == nil {
		t.Fatal("no error")
	}
	var out bytes.Buffer
	whittle.WriteError(&out, "whittle", err)
	for _, want := range []string{"Dockerfile:3", "missing", "Dockerfile:4", "nowhere", "nothing was run"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
	if names := slices.Collect(maps.Keys(h.files())); slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "records/") }) {
		t.Error("something ran")
	}
}

func TestPruningTakesNoLayerOfAnImage(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		h.base("base")
		h.mustBuild(threeStages, tags("app"))
		if _, err := h.Prune(t.Context(), whittle.PruneRequest{All: true}); err != nil {
			t.Fatal(err)
		}
		if problems, err := h.Fsck(t.Context(), false); err != nil || len(problems) > 0 {
			t.Errorf("afterwards: %v, %v", problems, err)
		}
		h.open() // forgets what is open
		r := h.mustBuild(threeStages, tags("app"))
		if r.Cached == 6 {
			t.Error("nothing was pruned")
		}
	})
}
