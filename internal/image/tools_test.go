package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// tool returns the path of a program or skips.
func tool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	return p
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// oneImage writes an image whose layers are tars without sizes of their own
// invention, in one format, to a file.
func oneImage(t *testing.T, m *memory, e Exporter, f Format) (string, *Image) {
	t.Helper()
	img := sample(t, m, moment, "hello", "world")
	file := filepath.Join(t.TempDir(), "image.tar")
	var b bytes.Buffer
	if _, err := e.Save(t.Context(), &b, []Export{{Image: img, Names: []Name{mustName(t, "example.com/app:1")}}}, f); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, img
}

func TestSkopeoTakesWhatSaveWrites(t *testing.T) {
	skopeo := tool(t, "skopeo")
	for _, style := range []manifest.Style{manifest.OCI, manifest.Docker} {
		m := newMemory()
		e := m.exporter()
		e.Style = style
		docker, img := oneImage(t, m, e, DockerArchive)
		refs := []string{"docker-archive:" + docker, "docker-archive:" + docker + ":example.com/app:1"}
		if style == manifest.OCI {
			// skopeo's oci: transports take OCI media types only.
			oci, _ := oneImage(t, m, e, OCIArchive)
			refs = append(refs, "oci-archive:"+docker, "oci-archive:"+oci, "oci-archive:"+oci+":1")
		}
		for _, ref := range refs {
			out := run(t, skopeo, "--tmpdir", t.TempDir(), "inspect", "--config", "--raw", ref)
			if out != string(img.Raw) {
				t.Errorf("%s: config\n%s\nwant\n%s", ref, out, img.Raw)
			}
			to := t.TempDir()
			run(t, skopeo, "--tmpdir", t.TempDir(), "--insecure-policy", "copy", ref, "dir:"+to)
			var files []string
			for _, l := range img.Layers {
				files = append(files, l.DiffID.Hex())
			}
			for _, f := range files {
				if _, err := os.Stat(filepath.Join(to, f)); err != nil {
					t.Errorf("%s: layer %s did not come through: %v", ref, f, err)
				}
			}
		}
	}
}

func TestLoadTakesWhatSkopeoWrites(t *testing.T) {
	skopeo := tool(t, "skopeo")
	m := newMemory()
	file, img := oneImage(t, m, m.exporter(), OCIArchive)
	dir := t.TempDir()
	for dest, want := range map[string]string{
		"docker-archive:" + dir + "/d.tar:example.com/app:1": "example.com/app:1",
		"oci-archive:" + dir + "/o.tar:example.com/app:1":    "example.com/app:1",
		"oci-archive:" + dir + "/n.tar":                      "",
	} {
		run(t, skopeo, "--tmpdir", t.TempDir(), "--insecure-policy", "copy", "oci-archive:"+file, dest)
		f, err := os.Open(strings.SplitN(dest, ":", 3)[1])
		if err != nil {
			t.Fatal(err)
		}
		got, err := Load(t.Context(), f, newMemory().sink())
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatalf("%s: %v", dest, err)
		}
		if len(got) != 1 || len(got[0].Image.Layers) != 2 || got[0].Image.Layers[1].DiffID != img.Layers[1].DiffID {
			t.Fatalf("%s: %+v", dest, got)
		}
		if want == "" && len(got[0].Names) > 0 || want != "" && (len(got[0].Names) != 1 || got[0].Names[0].Familiar() != want) {
			t.Errorf("%s: names %v, want %q", dest, got[0].Names, want)
		}
	}
}

func TestUmociUnpacksTheLayout(t *testing.T) {
	umoci := tool(t, "umoci")
	m := newMemory()
	file, _ := oneImage(t, m, m.exporter(), OCIArchive)
	dir := t.TempDir()
	run(t, "tar", "xf", file, "-C", dir)
	if out := run(t, umoci, "list", "--layout", dir); strings.TrimSpace(out) != "1" {
		t.Errorf("umoci lists %q, want 1", out)
	}
	args := []string{"unpack", "--image", dir + ":1"}
	if os.Geteuid() != 0 {
		args = append(args, "--rootless")
	}
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, umoci, append(args, bundle)...)
	for name, want := range map[string]string{"file0": "hello", "file1": "world"} {
		b, err := os.ReadFile(filepath.Join(bundle, "rootfs", name))
		if err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", name, b, err, want)
		}
	}
}

// TestDockerLoadsTheArchive starts a daemon of its own, on a socket and in
// folders of its own, and stops it.
func TestDockerLoadsTheArchive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: dockerd is started")
	}
	tool(t, "dockerd")
	docker := tool(t, "docker")
	m := newMemory()
	file, img := oneImage(t, m, m.exporter(), DockerArchive)
	host := startDocker(t)
	out := run(t, docker, "--host", host, "load", "--input", file)
	if !strings.Contains(out, "Loaded image: example.com/app:1") {
		t.Errorf("docker load said %q", out)
	}
	var got []Details
	if err := json.Unmarshal([]byte(run(t, docker, "--host", host, "inspect", "example.com/app:1")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].ID != img.ID.String() || got[0].RootFS.Layers[1] != img.Layers[1].DiffID.String() {
		t.Errorf("docker has %+v, want %s", got, img.ID)
	}
	back := filepath.Join(t.TempDir(), "back.tar")
	run(t, docker, "--host", host, "save", "--output", back, "example.com/app:1")
	f, err := os.Open(back)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(t.Context(), f, newMemory().sink())
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	same(t, loaded, []Export{{Image: img, Names: []Name{mustName(t, "example.com/app:1")}}})
}

func startDocker(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dockerd") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	host := "unix://" + dir + "/s"
	cmd := exec.Command("dockerd", "--host", host, "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver", "vfs")
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err == nil {
			<-ended
		}
		if err := errors.Join(log.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	deadline := time.After(30 * time.Second)
	for {
		if err := exec.Command("docker", "--host", host, "version").Run(); err == nil {
			return host
		}
		select {
		case err := <-ended:
			ended <- err
			b, _ := os.ReadFile(log.Name())
			t.Skipf("needs a dockerd that starts here: %v: %.2000s", err, b)
		case <-deadline:
			t.Skip("needs a dockerd that starts here: no answer in 30 s")
		case <-time.After(200 * time.Millisecond):
		}
	}
}
