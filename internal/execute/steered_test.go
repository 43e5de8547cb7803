package execute

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/solve"
)

// said lists what a layer's tar says, times of folders apart.
func (l *lab) said(id solve.Made) (out []string, form string) {
	l.t.Helper()
	b, meta := l.tarOf(id.Layer)
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out, meta.Form
		}
		if err != nil {
			l.t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			l.t.Fatal(err)
		}
		at := h.ModTime.Unix()
		if h.Typeflag == tar.TypeDir {
			at = 0
		}
		var attrs []string
		for k, v := range h.PAXRecords {
			attrs = append(attrs, fmt.Sprintf("%s=%q", k, v))
		}
		slices.Sort(attrs)
		out = append(out, fmt.Sprintf("%c %s %o %d:%d %d %d -> %q %x %s", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.Size, at, h.Linkname, sum.Sum(nil)[:4], attrs))
	}
}

// What a step changes without touching content is a layer as if overlayfs had
// copied the content: that is how it is made while somebody may look into a
// failed step, with which each case is compared. That chmod may be any program
// is no reason for a layer that is wrong.
func TestWhatIsChangedWithoutItsContentIsInTheLayerWithIt(t *testing.T) {
	for _, c := range []struct {
		name, script string
		tree         bool // nothing stands for something else: the layer stays a tree
		moves        bool // a folder, which without metacopy is a copy
	}{
		{name: "mode", script: "chmod -R 700 /d"},
		{name: "owner", script: "chown -R 7:8 /d/a /d/s/deep"},
		{name: "of one file and nothing else", script: "chmod 711 /d/s/deep/b"},
		{name: "back again", script: "chmod 700 /d/a && chmod 644 /d/a"},
		{name: "a new name", script: "mv /d/a /d/other && mv /d/s/deep/b /top"},
		{name: "a new name and mode", script: "mv /d/a /d/other && chmod 600 /d/other"},
		{name: "two names", script: "ln /d/a /d/second && ln /d/a /top"},
		{name: "over another", script: "mv /d/a /d/s/deep/b"},
		{name: "moved to and fro", script: "mv /d/a /x && mv /x /d/a"},
		{name: "mode, then content", script: "chmod 600 /d/a && echo more >>/d/a && touch -d @1600000000 /d/a", tree: true},
		{name: "content only", script: "echo new >/d/a && touch -d @1600000000 /d/a", tree: true},
		{name: "folder", script: "mv /d/s /d/moved", moves: true},
		{name: "folder, and something in it", script: "mv /d/s /moved && chmod 600 /moved/deep/b && rm /moved/deep/c && echo x >/moved/new && touch -d @1600000000 /moved/new", moves: true},
		{name: "folder twice", script: "mv /d/s /x && mv /x/deep /y && mv /y /x/again", moves: true},
		{name: "folder in the place of one", script: "rm -r /e && mv /d/s /e"},
		{name: "emptied and filled again", script: "rm -r /d && mkdir /d && echo new >/d/s && touch -d @1600000000 /d/s", tree: true},
		{name: "emptied, and filled with what was elsewhere", script: "mv /d/a /a && rm -r /d && mkdir /d && mv /a /d/a"},
		{name: "a link and a pipe", script: "chown -h 9:9 /d/link && chown 9:9 /d/pipe && chmod 600 /d/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, "erofs")
			l.withBusybox()
			l.file("case", "#!/bin/sh\nPATH=/bin; chmod() { busybox chmod \"$@\"; }; mv() { busybox mv \"$@\"; }; chown() { busybox chown \"$@\"; }\n"+c.script+"\n")
			text := "FROM base\nRUN mkdir -p /d/s/deep /e/old && echo a >/d/a && echo b >/d/s/deep/b && echo c >/d/s/deep/c && busybox ln /d/a /e/hard && " +
				"ln -s a /d/link && busybox mkfifo /d/pipe && touch -h -d @1500000000 /d/link /d/pipe /d/a /d/s/deep/b /d/s/deep/c && chmod 4755 /d/s/deep/c && chmod 750 /d/s && rm /bin/chmod\n" +
				"COPY --chmod=755 case /bin/chmod\nRUN [\"/bin/chmod\", \"it\"]\n"
			made := func(fail bool) solve.Made {
				local, s, p := l.local(text)
				if fail {
					local.OnFailure = func(context.Context, *Failed) error { return nil }
				}
				var last solve.Made
				s.Runner, s.NoCache = watched{local, &last}, func(*plan.Step) bool { return true }
				if _, err := s.Solve(t.Context(), p); err != nil {
					t.Fatalf("%v\n%s", err, l.log.Bytes())
				}
				if err := local.Close(); err != nil {
					t.Error(err)
				}
				return last
			}
			want, _ := l.said(made(true))
			if c.moves { // a folder where nothing was need not say that it hides that
				want = slices.DeleteFunc(want, func(line string) bool { return strings.Contains(line, ".wh..wh..opq") })
			}
			got, form := l.said(made(false))
			if !slices.Equal(got, want) {
				t.Errorf("the layer says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if tree := form == layer.FormTree; tree != c.tree && !c.moves {
				t.Errorf("the layer is a %s: it was not made in the way that is to be tested", form)
			}
			l.clean()
		})
	}
}

// A folder that is moved takes its hard links along, also those that lie in
// another one; a copy, which mv makes where it cannot rename, has none.
func TestFoldersThatChangePlacesKeepTheirHardLinks(t *testing.T) {
	l := newLab(t, "erofs")
	l.withBusybox()
	l.file("case", "#!/bin/sh\nbusybox mv /e /x && busybox mv /d /e && busybox mv /x /d\n")
	local, s, p := l.local("FROM base\nRUN mkdir /d /e && echo a >/d/a && ln /d/a /e/hard && busybox touch -h -d @1500000000 /d/a && rm /bin/chmod\n" +
		"COPY --chmod=755 case /bin/chmod\nRUN [\"/bin/chmod\", \"it\"]\n")
	var last solve.Made
	s.Runner = watched{local, &last}
	if _, err := s.Solve(t.Context(), p); err != nil {
		t.Fatalf("%v\n%s", err, l.log.Bytes())
	}
	got, _ := l.said(last)
	for i, line := range got {
		got[i] = strings.Join(strings.Fields(line)[:2], " ")
	}
	if want := []string{"5 d/", "0 d/.wh.a", "0 d/hard", "5 e/", "1 e/a", "0 e/.wh.hard"}; !slices.Equal(got, want) {
		t.Errorf("the layer has %q, want %q", got, want)
	}
}

func TestStepsThatOnlyChangeModesAreKnownByTheirCommands(t *testing.T) {
	sh := func(text string) []string { return []string{"/bin/sh", "-c", text} }
	for _, args := range [][]string{
		sh("chmod -R go-rwx /data"), sh("chmod +x /a && chown app:app /b"), sh("  chown -R 1:1 $HOME ; : $N"), sh("set -e\ncd /x\nchgrp -R g ."),
		{"chmod", "755", "/x"}, {"/bin/chown", "-R", "a", "/x"},
	} {
		if !changesOnlyModes(args) {
			t.Errorf("%q is not known", args)
		}
	}
	for _, args := range [][]string{
		sh("useradd a && chown a /x"), sh("chmod 1 $(find /)"), sh("chmod 1 `ls`"), sh("chown a b > c"), sh("chmodx a"), sh("mv a b"), sh("ln a b; chmod 1 b"),
		sh("chmod a b | cat"), sh("chmod 1 a & cp b c"), sh(""), {"cp", "a", "b"}, {}, {"/bin/sh", "chmod"},
	} {
		if changesOnlyModes(args) {
			t.Errorf("%q is taken for one", args)
		}
	}
}

// A file that no tar can hold, which a tree can.
func TestAModeOfAFileThatNoTarHoldsIsChangedInATree(t *testing.T) {
	l := newLab(t, "erofs")
	l.withBusybox()
	chain, err := l.build("FROM base\nRUN busybox truncate -s 2048G /huge\nRUN chmod 600 /huge\n")
	if err != nil {
		t.Skipf("needs a file system with files of 2 TiB: %v", err)
	}
	if meta, err := layer.ReadMeta(l.store.LayerDir(chain[len(chain)-1])); err != nil || meta.Form != layer.FormTree {
		t.Errorf("the layer is %+v, %v", meta, err)
	}
	l.clean()
}

// watched keeps what the last step made.
type watched struct {
	solve.Runner
	last *solve.Made
}

func (w watched) Run(ctx context.Context, job solve.Job) (solve.Made, error) {
	made, err := w.Runner.Run(ctx, job)
	*w.last = made
	return made, err
}
