package execute

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
)

// manyFiles makes a context that is worth preparing for: small files, a large one,
// an empty one, two names of one file, a link.
func (l *lab) manyFiles() {
	l.t.Helper()
	for i := range 600 {
		l.file(fmt.Sprintf("d/%02d/f%03d", i%7, i), strings.Repeat(fmt.Sprint(i, " "), i))
	}
	l.file("d/large", strings.Repeat("large\n", 200_000))
	l.file("d/empty", "")
	at := filepath.Join(l.context, "d")
	if err := errors.Join(os.Link(at+"/large", at+"/also"), os.Link(at+"/00/f000", at+"/06/zero"), os.Symlink("large", at+"/link")); err != nil {
		l.t.Fatal(err)
	}
}

// forgetContents makes the next build find out what it would know.
func (l *lab) forgetContents() {
	l.t.Helper()
	if err := os.RemoveAll(filepath.Join(l.store.Dir(), "cache/content")); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) leftovers() []string {
	l.t.Helper()
	left, err := filepath.Glob(filepath.Join(l.store.Dir(), "tmp/copy*"))
	if err != nil {
		l.t.Fatal(err)
	}
	return left
}

// What is written while the content is found out is what is written after it, and
// the content is the same.
func TestAPreparedLayerIsTheOneThatTheStepWouldWrite(t *testing.T) {
	for _, p := range []rootfs.Provider{rootfs.Erofs, rootfs.Tree} {
		l := newLab(t, p)
		l.manyFiles()
		for _, how := range []string{"/d /e", "/ /", "/d/large /d/06 /d/0* /e/", "/d /d/05 /e/", "--chown=3:4 --chmod=600 /d /e", "--exclude=**/f1* /d /e"} {
			flags, what := "", how
			if i := strings.Index(how, " /"); strings.HasPrefix(how, "--") {
				flags, what = how[:i]+" ", how[i+1:]
			}
			local, s, pl := l.local("# syntax=docker/dockerfile:1-labs\nFROM scratch AS x\nCOPY d /d\nFROM scratch\nCOPY " + flags + "--from=x " + what + "\n")
			r, err := s.Solve(t.Context(), pl)
			if err != nil {
				t.Fatalf("%s: %v", how, err)
			}
			step := pl.Steps[len(pl.Steps)-1]
			var contents, layers [2]digest.Digest
			var tars [2][]byte
			for i, kept := range []*solve.Kept{nil, {}} {
				l.forgetContents()
				job := solve.Job{Step: step, From: r.Chain(*step.Copy.From), Kept: kept, Fresh: true, Nonce: "n"}
				if contents[i], err = local.Content(t.Context(), job); err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if kept != nil && kept.Made == nil {
					t.Errorf("%s, %s: nothing is prepared", p, how)
				}
				job.Content = contents[i]
				made, err := local.Run(t.Context(), job)
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if kept != nil {
					err = kept.Made.Close()
				}
				if err != nil {
					t.Error(err)
				}
				layers[i] = made.Layer
				tars[i], _ = l.tarOf(made.Layer)
			}
			if contents[0] != contents[1] || layers[0] != layers[1] || !bytes.Equal(tars[0], tars[1]) {
				t.Errorf("%s, %s: content %s, layer %s of %d bytes; prepared: %s, %s of %d", p, how,
					contents[0].Short(), layers[0].Short(), len(tars[0]), contents[1].Short(), layers[1].Short(), len(tars[1]))
			}
		}
		if left := l.leftovers(); len(left) > 0 {
			t.Errorf("%s: %q is left", p, left)
		}
	}
}

// A folder that nobody has read is read once, by what writes the layer; the key and the
// layer are those that a scan that reads it gives.
func TestACopyOfAFolderNeverSeenReadsItOnce(t *testing.T) {
	for _, p := range []rootfs.Provider{rootfs.Erofs, rootfs.Tree} {
		for _, copy := range []string{"COPY d /d\n", "COPY . /\n", "COPY --chown=3:4 --exclude=**/f1* d /d\n", "COPY d d/05 /e/\n", "COPY d/00/f007 /\nCOPY d /d\n", "COPY d /d\nRUN ls\n"} {
			text := "# syntax=docker/dockerfile:1-labs\nFROM base\n" + copy
			var chains [2]rootfs.Chain
			for i, later := range []bool{false, true} {
				l := newLab(t, p)
				l.withBusybox()
				l.manyFiles()
				l.dateContext(l.now)
				l.later = later
				local, s, pl := l.local(text)
				unread := local.Context.Late.Unread()
				r, err := s.Solve(t.Context(), pl)
				if err = errors.Join(err, local.Close()); err != nil {
					t.Fatalf("%s%v\n%s", copy, err, l.log.Bytes())
				}
				chains[i] = r.Chain(pl.Target.Root)
				if unread != later || later && !strings.Contains(copy, "exclude") && local.Context.Late.Unread() {
					t.Errorf("%s, %s: unread before %t, after %t", p, copy, unread, local.Context.Late.Unread())
				}
				if left := l.leftovers(); len(left) > 0 {
					t.Errorf("%s, %s: %q is left", p, copy, left)
				}
			}
			if !slices.Equal(chains[0], chains[1]) && !strings.Contains(copy, "RUN") {
				t.Errorf("%s, %s: %s, later %s", p, copy, chains[0], chains[1])
			}
		}
	}
}

// The layer of a step that was looked for before may be there: then its files are read
// first, and nothing is written in vain.
func TestAFolderOfAStepThatWasSeenIsReadFirst(t *testing.T) {
	l := newLab(t, rootfs.Erofs)
	l.manyFiles()
	l.later = true
	const text = "FROM scratch\nCOPY d /d\n"
	was := l.mustBuild(text)
	for _, changed := range []bool{false, true} {
		if changed {
			l.file("d/00/f007", "something else")
		}
		local, s, p := l.local(text)
		job := solve.Job{Step: p.Steps[0], Kept: &solve.Kept{}}
		if _, err := local.Content(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		if job.Kept.Made != nil || local.Context.Late.Unread() {
			t.Errorf("changed: %t: a layer is prepared, or files are unread: %t", changed, local.Context.Late.Unread())
		}
		r, err := s.Solve(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Steps[p.Steps[0]]; got.Cached == changed || (got.Layer == was[0]) == changed {
			t.Errorf("changed: %t: cached %t, layer %s", changed, got.Cached, got.Layer.Short())
		}
	}
}

// What changes between the scan and the copy is copied as it is then, by another reading.
func TestAFolderThatChangesAfterTheScanIsReadAgain(t *testing.T) {
	l := newLab(t, rootfs.Erofs)
	l.manyFiles()
	l.later = true
	local, s, p := l.local("FROM scratch\nCOPY d /d\n")
	l.file("d/00/f007", "longer than it was when it was scanned")
	r, err := s.Solve(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	v, err := local.Roots.View(t.Context(), r.Chain(p.Target.Root))
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.Open("d/00/f007")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "longer than it was when it was scanned" {
		t.Errorf("%q, %v", b, err)
	}
	if left := l.leftovers(); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// moving is a context in which another step finds a changed file each time.
type moving struct {
	Late
	n int64
}

func (m *moving) Moved() int64 { m.n++; return m.n }

func TestWhatWasPreparedWhileAFileChangedIsThrownAway(t *testing.T) {
	l := newLab(t, rootfs.Erofs)
	l.manyFiles()
	l.later = true
	local, _, p := l.local("FROM scratch\nCOPY d /d\n")
	local.Context.Late = &moving{Late: local.Context.Late}
	job := solve.Job{Step: p.Steps[0], Kept: &solve.Kept{}}
	if _, err := local.Content(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if job.Kept.Made != nil || len(l.leftovers()) > 0 {
		t.Errorf("kept: %t, left: %q", job.Kept.Made != nil, l.leftovers())
	}
}

// A stage that ran again and made the same leaves its copy cached, and what was
// prepared for it goes.
func TestWhatWasPreparedInVainIsThrownAway(t *testing.T) {
	l := newLab(t, rootfs.Erofs)
	l.withBusybox()
	l.manyFiles()
	const text = "FROM base AS x\nCOPY d /d\nRUN touch -d @1 /d/large\nFROM scratch\nCOPY --from=x /d /d\n"
	was := l.mustBuild(text)
	local, s, p := l.local(text)
	s.NoCache = func(step *plan.Step) bool { return step.Run != nil }
	r, err := s.Solve(t.Context(), p)
	if err = errors.Join(err, local.Close()); err != nil {
		t.Fatalf("%v\n%s", err, l.log.Bytes())
	}
	top := p.Steps[len(p.Steps)-1]
	if d := r.Steps[top]; !d.Cached || d.Layer != was[len(was)-1] {
		t.Errorf("the copy is cached: %t, layer %s", d.Cached, d.Layer.Short())
	}
	if left := l.leftovers(); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// Small copies, those of a context and those into trees are not prepared.
func TestWhatIsNotWorthItIsNotPrepared(t *testing.T) {
	for _, c := range []struct {
		name     string
		provider rootfs.Provider
		copy     string
		run      string
		want     bool
	}{
		{"many files", rootfs.Erofs, "COPY --from=x /d /d\n", "", true},
		{"one small file", rootfs.Erofs, "COPY --from=x /d/00/f007 /\n", "", false},
		{"with a text", rootfs.Erofs, "COPY --from=x /d <<EOF /d/\nEOF\n", "", false},
		{"of the context", rootfs.Erofs, "COPY d /d\n", "", false},
		{"that a process sees, in a tar", rootfs.Erofs, "COPY --from=x /d /d\n", "RUN ls\n", true},
		{"that a process sees, in a tree", rootfs.Tree, "COPY --from=x /d /d\n", "RUN ls\n", false},
	} {
		l := newLab(t, c.provider)
		l.manyFiles()
		local, s, p := l.local("FROM scratch AS x\nCOPY d /d\nFROM scratch\n" + c.copy + c.run)
		var step *plan.Step
		for _, one := range p.Steps {
			if one.Copy != nil {
				step = one
			}
		}
		job := solve.Job{Step: step, Kept: &solve.Kept{}, InRoot: c.run != ""}
		if step.Copy.From != nil && step.Copy.From.Step != nil {
			below := *p
			below.Stages, below.Steps = p.Stages[:1], p.Steps[:1]
			r, err := s.Solve(t.Context(), &below)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			job.From = r.Chain(*step.Copy.From)
		}
		if _, err := local.Content(t.Context(), job); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := job.Kept.Made != nil; got != c.want {
			t.Errorf("%s: prepared: %t", c.name, got)
		}
		if job.Kept.Made != nil {
			if err := job.Kept.Made.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// countedOpens counts which files are opened.
type countedOpens struct {
	*entry.Mem
	times map[string]int
}

func (o countedOpens) Open(path string) (io.ReadCloser, error) {
	o.times[path]++
	return o.Mem.Open(path)
}

func TestADigestThatIsNotedIsNotReadAgain(t *testing.T) {
	fs := countedOpens{entry.NewMem(), map[string]int{}}
	for _, name := range []string{"a", "b", "c"} {
		fs.Add(entry.Entry{Path: name, Kind: entry.File, Mode: 0o644, Size: 1}, name)
	}
	s := newSums(fs)
	all := summed{fs, s}
	go func() {
		defer s.end()
		_ = all.Loader().Load("a", make([]byte, 1))
		if f, err := all.Open("b"); err == nil {
			_, _ = io.ReadAll(f)
			f.Close()
		}
	}()
	for _, name := range []string{"b", "a", "c"} {
		d, err := s.FileDigest(entry.Entry{Path: name})
		if err != nil || d != digest.Of([]byte(name)) {
			t.Errorf("%s: %s, %v", name, d, err)
		}
		if n := fs.times[name]; n != 1 {
			t.Errorf("%s is opened %d times", name, n)
		}
	}
	if _, err := s.FileDigest(entry.Entry{Path: "d"}); err == nil {
		t.Error("no error for a file that is not there")
	}
}
