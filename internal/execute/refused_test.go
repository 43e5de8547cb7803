package execute

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

// tarOf is an archive of one entry.
func tarOf(t *testing.T, h tar.Header) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return b.String()
}

func gzipped(t *testing.T, s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return b.String()
}

func TestWhatFilesAreWrongForIsSaidWithLineAndWayOut(t *testing.T) {
	everyProvider(t, func(t *testing.T, l *lab) {
		l.withBusybox()
		l.file("a", "a")
		l.file("dev.tar", tarOf(t, tar.Header{Name: "zero", Typeflag: tar.TypeChar}))
		l.file("wh.tar", tarOf(t, tar.Header{Name: ".wh.x", Typeflag: tar.TypeReg}))
		l.file("owner.tar", tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeReg, Uid: 1<<32 - 1}))
		whole := tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeReg})
		l.file("cut.tar", whole[:700])
		packed := gzipped(t, whole)
		l.file("cut.tar.gz", packed[:len(packed)-4])
		l.file("garbled.tar", whole[:512]+strings.Repeat("x", 512))
		l.file("sub/.wh.x", "")
		for name, to := range map[string]string{"abs": "/etc/shadow", "gone": "nowhere", "loop": "loop"} {
			if err := os.Symlink(to, filepath.Join(l.context, name)); err != nil {
				t.Fatal(err)
			}
		}
		tests := map[string][2]string{
			"ADD dev.tar /x/":     {`ADD dev.tar: tar entry "zero": `, "make the archive without it"},
			"ADD wh.tar /x/":      {"ADD wh.tar: .wh.x: a name", "make the archive without it"},
			"ADD owner.tar /x/":   {`ADD owner.tar: tar entry "x": owner`, "make the archive without it"},
			"ADD cut.tar /x/":     {"ADD cut.tar: tar, after entry 1: ", "cut off or broken"},
			"ADD cut.tar.gz /x/":  {"ADD cut.tar.gz: unexpected EOF", "cut off or broken"},
			"ADD garbled.tar /x/": {"ADD garbled.tar: tar, after entry 1: ", "cut off or broken"},
			"COPY sub /x/":        {"sub/.wh.x: a name", ".dockerignore"},
			"COPY abs /x":         {`"abs" is a symlink to "/etc/shadow", which is not in the build context`, "inside the build context only"},
			"COPY gone /x":        {`"gone" is a symlink to "nowhere", which is not in`, "inside the build context only"},
			"COPY loop /x":        {`"loop": too many levels of symbolic links`, "lead to each other"},
		}
		for line, want := range tests {
			_, err := l.build("FROM base\n" + line + "\nRUN true\n")
			var m *dockerfile.Error
			if !errors.As(err, &m) {
				t.Errorf("%s: %v", line, err)
				continue
			}
			if m.Line != 2 || !strings.Contains(m.Msg, want[0]) || !strings.Contains(m.Hint, want[1]) {
				t.Errorf("%s: line %d: %s (%s)", line, m.Line, m.Msg, m.Hint)
			}
		}
		l.clean()
	})
}

func TestALinkInPlaceOfProcIsSaidWithAWayOutOfABuild(t *testing.T) {
	everyProvider(t, func(t *testing.T, l *lab) {
		l.withBusybox()
		l.file("l.tar", tarOf(t, tar.Header{Name: "proc", Typeflag: tar.TypeSymlink, Linkname: "/etc"}))
		_, err := l.build("FROM base\nADD l.tar /\nRUN true\n")
		var m *dockerfile.Error
		if !errors.As(err, &m) || m.Line != 3 || !strings.Contains(m.Hint, "a folder and no link") {
			t.Errorf("got %v, %+v", err, m)
		}
	})
}
