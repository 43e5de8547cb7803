package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
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

// outside starts the program on a stream, and fails where that is not done.
func outside(t *testing.T, r io.Reader) *piped {
	t.Helper()
	if _, err := exec.LookPath(gunzipProgram); err != nil {
		t.Skip("needs " + gunzipProgram)
	}
	p := gunzipOutside(bufio.NewReaderSize(r, worthProgram))
	if p == nil {
		t.Fatalf("%s was not started", gunzipProgram)
	}
	t.Cleanup(func() { p.Close() })
	return p
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

// A stream takes the library where there is no program, and where that does not start.
func TestWithoutAProgramTheLibraryDecompresses(t *testing.T) {
	stream, plain := members(t)
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, gunzipProgram), []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", broken} {
		t.Setenv("PATH", path)
		r, err := decompressLayer(bytes.NewReader(stream))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := r.(*piped); ok {
			t.Errorf("PATH=%s: a program", path)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("PATH=%s: %d bytes, error %v", path, len(got), err)
		}
	}
}

// A program that cannot do it is named.
func TestAProgramThatFailsIsNamed(t *testing.T) {
	stream, _ := members(t)
	dir := t.TempDir()
	os.Chmod(filepath.Dir(dir), 0o755) // for who it runs as
	os.Chmod(dir, 0o755)
	name := filepath.Join(dir, gunzipProgram)
	if err := os.WriteFile(name, []byte("#!/bin/sh\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if _, err := exec.Command(name).Output(); err == nil {
		t.Fatal("it does not fail")
	}
	p := gunzipOutside(bufio.NewReaderSize(bytes.NewReader(stream), worthProgram))
	if p == nil {
		t.Skip("needs a place that others can reach")
	}
	if _, err := io.Copy(io.Discard, p); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("error %v", err)
	}
}

func TestShortStreamsStartNoProgram(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(make([]byte, 10<<20))
	w.Close()
	r, err := decompressLayer(&z)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.(*piped); ok {
		t.Errorf("%d bytes were given to a program", z.Len())
	}
	if n, err := io.Copy(io.Discard, r); err != nil || n != 10<<20 {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

// What an archive of files has at its end is judged by one decompressor, wherever that runs.
func TestArchivesAreDecompressedByTheLibrary(t *testing.T) {
	random := make([]byte, 2*worthProgram)
	rand.NewChaCha8([32]byte{2}).Read(random)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	tw := tar.NewWriter(w)
	tw.WriteHeader(&tar.Header{Name: "a", Mode: 0o644, Size: int64(len(random))})
	tw.Write(random)
	tw.Close()
	w.Close()
	z.WriteString("something else")
	if _, _, err := ImportArchive(t.Context(), t.TempDir(), bytes.NewReader(z.Bytes())); err == nil {
		t.Error("an archive with something behind it is taken")
	}
}
