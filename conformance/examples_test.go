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

// TestExamples builds examples with both, compares them as cases are, and gives
// what whittle saves to the tools that read images: dockerd loads and runs it,
// skopeo reads it, umoci unpacks it.
func TestExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("needs time: compiles programs, three times each")
	}
	b := newBench(t, "busybox:latest", "alpine:latest", "golang:1.15", "nginx:latest", "debian:latest")
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			context := filepath.Join("..", "examples", e.folder)
			c := &testCase{name: e.name, context: context, file: filepath.Join(context, e.file), args: e.args}
			b.check(t, c)
			if t.Failed() {
				return
			}
			want := ""
			if e.runs {
				want = b.output(t, e.name)
			}
			for _, provider := range providers {
				b.load(t, provider, e.name)
				if got := b.outputIf(t, e.runs, e.name); got != want {
					t.Errorf("%s: docker run prints %q; the peer's own image %q", provider, got, want)
				}
			}
			b.unpack(t, e.name)
		})
	}
	if !t.Failed() && wholeRun() {
		b.accepted.unmet(t, "example_")
	}
}

// output is what the peer's image of a case prints.
func (b *bench) output(t *testing.T, name string) string {
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

func (b *bench) outputIf(t *testing.T, runs bool, name string) string {
	if !runs {
		return ""
	}
	return b.output(t, name)
}

// load gives whittle's image to dockerd, in the place of its own.
func (b *bench) load(t *testing.T, provider, name string) {
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
func (b *bench) unpack(t *testing.T, name string) {
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
	img, err := w.image(b.layers, "conformance-"+name, dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := img.files()
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
func sameTree(t *testing.T, files map[string]*node, dir string) {
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
		n := files[inside]
		if n == nil {
			t.Errorf("umoci unpacks %s, which no layer has", inside)
			return nil
		}
		seen++
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			return err
		}
		mode := int64(st.Mode & 0o7777)
		if n.kind != "symlink" && mode != n.mode || int(st.Uid) != n.uid || int(st.Gid) != n.gid || n.kind == "file" && st.Size != n.size {
			t.Errorf("umoci unpacks %s as %04o %d:%d, %d bytes; it is %04o %d:%d, %d bytes",
				inside, mode, st.Uid, st.Gid, st.Size, n.mode, n.uid, n.gid, n.size)
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
