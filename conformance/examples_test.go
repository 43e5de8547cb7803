package conformance

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whittle-build/whittle/conformance/suite"
)

// examples are builds of ../examples, at least one on each base; of the last
// images what they print when they run is compared too.
var examples = []struct {
	name, folder, file string
	args               []string
	runs               bool
}{
	{name: "example_busybox", folder: "4-folders", file: "Dockerfile", runs: true},
	{name: "example_golang", folder: "1-http-service", file: "Dockerfile"},
	{name: "example_nginx", folder: "1-http-service", file: "Dockerfile.nginx-conf", runs: true},
	{name: "example_debian", folder: "3-lower-case-and-side-by-side", file: "Dockerfile.corrected", args: mirror, runs: true},
	{name: "example_debian_stage", folder: "3-lower-case-and-side-by-side", file: "Dockerfile.corrected",
		args: append([]string{"--target", "bar"}, mirror...)},
}

// mirror is where the debian stand-in has its packages.
var mirror = []string{"--build-arg", "APT_MIRROR=file:/usr/share/stand-in/apt"}

// A dockerBench builds with dockerd, the second opinion, and with each provider
// of whittle, all on the very same images.
type dockerBench struct {
	peer     *builder
	whittles map[string]*builder
	layers   *suite.LayerCache
	began    time.Time
}

func newDockerBench(t *testing.T, bases ...string) *dockerBench {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv("TMPDIR"), "conformance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b := &dockerBench{peer: startPeer(t, dir), whittles: map[string]*builder{}, layers: suite.NewLayerCache()}
	program := buildWhittle(t, dir)
	var all []*builder
	for _, p := range providers {
		b.whittles[p] = whittle(program, dir, p)
		all = append(all, b.whittles[p])
	}
	if err := loadBases(dir, b.peer, all, bases); err != nil {
		t.Fatal(err)
	}
	b.began = time.Now()
	return b
}

// TestExamples builds examples with dockerd and whittle, compares them as cases
// are, and gives what whittle saves to the tools that read images: dockerd loads
// and runs it, skopeo reads it, umoci unpacks it.
func TestExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("needs time: compiles programs, three times each")
	}
	b := newDockerBench(t, "busybox:latest", "alpine:latest", "golang:1.15", "nginx:latest", "debian:latest")
	accepted, err := readDifferences("differences-dockerd.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			context := filepath.Join("..", "examples", e.folder)
			c := &suite.Case{Name: e.name, Dir: t.TempDir(), Context: context, File: filepath.Join(context, e.file), Args: e.args}
			want, err := b.peer.outcome(b.layers, c, c.Dir, b.began)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range providers {
				got, err := b.whittles[p].outcome(b.layers, c, c.Dir, b.began)
				if err != nil {
					t.Fatal(err)
				}
				report(t, accepted, c.Name, p, want, got)
			}
			if !t.Failed() {
				b.read(t, e.name, e.runs)
			}
		})
	}
	if !t.Failed() && wholeRun() {
		accepted.unmet(t)
	}
}

// read gives whittle's images of an example to other tools.
func (b *dockerBench) read(t *testing.T, name string, runs bool) {
	t.Helper()
	want := b.outputIf(t, runs, name)
	for _, provider := range providers {
		b.load(t, provider, name)
		if got := b.outputIf(t, runs, name); got != want {
			t.Errorf("%s: docker run prints %q; the peer's own image %q", provider, got, want)
		}
	}
	b.unpack(t, name)
}

// output is what the peer's image of a case prints.
func (b *dockerBench) output(t *testing.T, name string) string {
	t.Helper()
	out, err := b.peer.run("run", "--rm", "--network", "host", "conformance-"+name)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("docker run %s prints nothing: there is nothing to compare", name)
	}
	return string(out)
}

func (b *dockerBench) outputIf(t *testing.T, runs bool, name string) string {
	if !runs {
		return ""
	}
	return b.output(t, name)
}

// load gives whittle's image to dockerd, in the place of its own.
func (b *dockerBench) load(t *testing.T, provider, name string) {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "save.tar")
	w := b.whittles[provider]
	if _, err := w.run("save", "-o", archive, "conformance-"+name); err != nil {
		t.Fatal(err)
	}
	if _, err := b.peer.run("load", "-i", archive); err != nil {
		t.Fatal(err)
	}
	ours, err := w.run("inspect", "--format", "{{.Id}}", "conformance-"+name)
	if err != nil {
		t.Fatal(err)
	}
	its, err := b.peer.run("inspect", "--format", "{{.Id}}", "conformance-"+name)
	if err != nil {
		t.Fatal(err)
	}
	if string(ours) != string(its) {
		t.Errorf("%s: dockerd has loaded %s, and whittle has saved %s", provider, its, ours)
	}
}

// unpack gives whittle's image to skopeo and to umoci, and compares what umoci
// unpacks with what the layers say.
func (b *dockerBench) unpack(t *testing.T, name string) {
	t.Helper()
	for _, tool := range []string{"skopeo", "umoci"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	dir := t.TempDir()
	archive, layout, bundle := filepath.Join(dir, "oci.tar"), filepath.Join(dir, "layout"), filepath.Join(dir, "bundle")
	w := b.whittles["erofs"]
	if _, err := w.run("save", "--format", "oci", "-o", archive, "conformance-"+name); err != nil {
		t.Fatal(err)
	}
	command(t, "skopeo", "--tmpdir", dir, "inspect", "oci-archive:"+archive)
	if err := untar(archive, layout); err != nil {
		t.Fatal(err)
	}
	command(t, "umoci", "unpack", "--image", layout+":latest", bundle)
	saved := filepath.Join(dir, "saved.tar")
	if _, err := w.run("save", "-o", saved, "conformance-"+name); err != nil {
		t.Fatal(err)
	}
	img, err := b.layers.ReadImage(saved)
	if err != nil {
		t.Fatal(err)
	}
	files, err := img.Paths()
	if err != nil {
		t.Fatal(err)
	}
	sameTree(t, files, filepath.Join(bundle, "rootfs"))
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// untar writes the files of an archive that whittle made: folders and regular
// files.
func untar(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := makeRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(strings.TrimSuffix(h.Name, "/"), 0o755); err != nil {
				return err
			}
			continue
		}
		to, err := root.Create(h.Name)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, r)
		if err = errors.Join(err, to.Close()); err != nil {
			return err
		}
	}
}

func makeRoot(dir string) (*os.Root, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// sameTree checks that dir has the files: their names, modes, owners and sizes.
func sameTree(t *testing.T, files map[string]suite.Path, dir string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := strings.TrimPrefix(name, dir)
		if inside == "" {
			return nil // what the layers say of the root, if anything, others compare
		}
		n, ok := files[inside]
		if !ok {
			t.Errorf("umoci unpacks %s, which no layer has", inside)
			return nil
		}
		seen++
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			return err
		}
		mode := int64(st.Mode & 0o7777)
		if n.Kind != "symlink" && mode != n.Mode || int(st.Uid) != n.UID || int(st.Gid) != n.GID || n.Kind == "file" && st.Size != n.Size {
			t.Errorf("umoci unpacks %s as %04o %d:%d, %d bytes; it is %04o %d:%d, %d bytes",
				inside, mode, st.Uid, st.Gid, st.Size, n.Mode, n.UID, n.GID, n.Size)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(files, "/")
	if seen != len(files) {
		t.Errorf("umoci unpacks %d paths of %d", seen, len(files))
	}
}
