package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/whittle-build/whittle/internal/digest"
)

// members is a stream of a few members that is larger than what a program is started for, and what
// comes out of it.
func members(t *testing.T) (stream, plain []byte) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	var z, all bytes.Buffer
	for range 3 {
		part := make([]byte, worthProgram)
		random.Read(part)
		part = append(part, strings.Repeat("text that is compressed ", 10000)...)
		all.Write(part)
		w := gzip.NewWriter(&z)
		w.Name, w.Extra, w.Comment = "a name", []byte("extra"), "a comment"
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return z.Bytes(), all.Bytes()
}

// outside starts the program on a stream.
func outside(t *testing.T, r io.Reader) *piped {
	t.Helper()
	name := findGunzip()
	if name == "" {
		t.Skip("needs " + gunzipProgram)
	}
	return started(t, t.Context(), name, r)
}

func started(t *testing.T, ctx context.Context, name string, r io.Reader) *piped {
	t.Helper()
	p, err := startGunzip(ctx, name, bufio.NewReader(r))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// otherProgram is a folder that has a shell script in the place of the program, for whoever it runs as.
func otherProgram(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755),
		os.WriteFile(filepath.Join(dir, gunzipProgram), []byte("#!/bin/sh\n"+script+"\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAProgramDecompressesAsTheLibraryDoes(t *testing.T) {
	stream, plain := members(t)
	rest := bytes.NewReader(stream)
	p := outside(t, iotest.OneByteReader(bufio.NewReader(rest)))
	got, err := io.ReadAll(p)
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(plain))
	}
	if rest.Len() > 0 {
		t.Errorf("%d bytes of the stream were not read: its digest is checked at its end", rest.Len())
	}
	if _, err := p.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestAProgramRefusesWhatTheLibraryRefuses(t *testing.T) {
	stream, _ := members(t)
	damaged := func(at int) []byte {
		b := bytes.Clone(stream)
		b[at] ^= 1
		return b
	}
	for name, b := range map[string][]byte{
		"half":               stream[:len(stream)/2],
		"without its end":    stream[:len(stream)-1],
		"without a checksum": stream[:len(stream)-8],
		"only a header more": append(bytes.Clone(stream), stream[:12]...),
		"wrong checksum":     damaged(len(stream) - 8),
		"wrong length":       damaged(len(stream) - 1),
		"other bytes":        damaged(len(stream) / 2),
	} {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err == nil {
			_, err = io.Copy(io.Discard, z)
		}
		if err == nil {
			t.Errorf("%s: the library takes it", name)
		}
		if _, err := io.Copy(io.Discard, outside(t, bytes.NewReader(b))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestWhatKeepsAStreamFromBeingReadIsTold(t *testing.T) {
	stream, _ := members(t)
	lost := errors.New("lost")
	p := outside(t, io.MultiReader(bytes.NewReader(stream[:len(stream)/2]), iotest.ErrReader(lost)))
	if _, err := io.Copy(io.Discard, p); !errors.Is(err, lost) {
		t.Errorf("error %v", err)
	}
}

func TestAProgramThatIsNotReadToItsEndEnds(t *testing.T) {
	stream, _ := members(t)
	p := outside(t, bytes.NewReader(stream))
	if _, err := io.ReadFull(p, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if p.cmd.ProcessState == nil {
		t.Error("it still runs")
	}
	if _, err := p.Read(make([]byte, 1)); err == nil {
		t.Error("a closed stream is read")
	}
}

// What cannot be started, says something else or only a part is no program.
func TestOnlyAProgramThatWorksIsTaken(t *testing.T) {
	for _, script := range []string{"exit 127", "printf 'two '", "printf 'two members, and more'", "exec cat", "echo >&2; exit 1", "kill -ILL $$"} {
		t.Setenv("PATH", otherProgram(t, "PATH=/usr/bin:/bin\n"+script))
		if name := findGunzip(); name != "" {
			t.Errorf("%q is taken", script)
		}
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, gunzipProgram), []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", broken} {
		t.Setenv("PATH", path)
		if name := findGunzip(); name != "" {
			t.Errorf("PATH=%q: %s", path, name)
		}
	}
}

func TestAProgramThatFailsIsNamed(t *testing.T) {
	stream, _ := members(t)
	name := filepath.Join(otherProgram(t, "exit 3"), gunzipProgram)
	p := started(t, t.Context(), name, bytes.NewReader(stream))
	if _, err := io.Copy(io.Discard, p); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error %v", err)
	}
}

// It neither reads nor writes, and does not end by itself.
func TestAProgramThatStandsStillEndsWithTheContext(t *testing.T) {
	stream, _ := members(t)
	name := filepath.Join(otherProgram(t, "exec /bin/sleep 1000"), gunzipProgram)
	ctx, cancel := context.WithCancelCause(t.Context())
	p := started(t, ctx, name, bytes.NewReader(append(stream, stream...)))
	interrupted := errors.New("interrupted")
	time.AfterFunc(100*time.Millisecond, func() { cancel(interrupted) })
	if _, err := io.Copy(io.Discard, p); err != interrupted {
		t.Errorf("error %v", err)
	}
}

// Whoever ends a service ends all that it has started, in any order.
func TestAProgramThatIsEndedBeforeUsDidNotFail(t *testing.T) {
	stream, _ := members(t)
	name := filepath.Join(otherProgram(t, "kill -TERM $$"), gunzipProgram)
	ctx, cancel := context.WithCancelCause(t.Context())
	p := started(t, ctx, name, bytes.NewReader(stream))
	ended := errors.New("ended")
	time.AfterFunc(300*time.Millisecond, func() { cancel(ended) })
	if _, err := io.Copy(io.Discard, p); err != ended {
		t.Errorf("error %v", err)
	}
}

func TestShortStreamsStartNoProgram(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(make([]byte, 10<<20))
	w.Close()
	r, err := byProgram(t.Context(), &z)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.(*piped); ok {
		t.Error("a few KB were given to a program")
	}
	if n, err := io.Copy(io.Discard, r); err != nil || n != 10<<20 {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

// packed is a tar in gzip with a file that makes it worth a program.
func packed(t *testing.T) []byte {
	t.Helper()
	random := make([]byte, 2*worthProgram)
	rand.NewChaCha8([32]byte{2}).Read(random)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	tw := tar.NewWriter(w)
	err := tw.WriteHeader(&tar.Header{Name: "a", Mode: 0o644, Size: int64(len(random))})
	_, werr := tw.Write(random)
	if err := errors.Join(err, werr, tw.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

func TestALayerThatIsKnownIsImportedByAProgram(t *testing.T) {
	outside(t, strings.NewReader(probe)) // there is one
	z := packed(t)
	r, err := byProgram(t.Context(), bytes.NewReader(z))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.(*piped); !ok {
		t.Errorf("%T decompresses it", r)
	}
	r.Close()
	m, err := Import(t.Context(), t.TempDir(), bytes.NewReader(z), nil)
	if err != nil {
		t.Fatal(err)
	}
	if known, err := ImportKnown(t.Context(), t.TempDir(), bytes.NewReader(z), m.DiffID); err != nil || known != m {
		t.Errorf("%+v, error %v; want %+v", known, err, m)
	}
	dir := t.TempDir()
	if _, err := ImportKnown(t.Context(), dir, bytes.NewReader(z), digest.Of([]byte("another"))); err == nil {
		t.Error("a layer of another diffID is taken")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, error %v", left, err)
	}
}

// What follows a stream is judged by one decompressor, wherever that runs, unless it is known what
// has to come out.
func TestWhatIsNotKnownIsDecompressedByTheLibrary(t *testing.T) {
	z := append(packed(t), "something else"...)
	if _, err := Import(t.Context(), t.TempDir(), bytes.NewReader(z), nil); err == nil {
		t.Error("a layer with something behind it is taken")
	}
	if _, _, err := ImportArchive(t.Context(), t.TempDir(), bytes.NewReader(z)); err == nil {
		t.Error("an archive with something behind it is taken")
	}
}
