package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whittle-build/whittle/conformance/suite"
)

// A builder is docker's command line: dockerd's own, or whittle's.
type builder struct {
	program string
	env     []string
	network []string // flags that let RUN reach what it needs
}

// run runs a command and returns what it prints. Its error ends with what the
// command said.
func (b *builder) run(args ...string) ([]byte, error) {
	cmd := exec.Command(b.program, args...)
	cmd.Env = b.env
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(b.program), strings.Join(args, " "), err, tail(said.String()+out.String()))
	}
	return out.Bytes(), nil
}

func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// build builds file in a context under a name.
func (b *builder) build(name, file, context string, args ...string) error {
	all := append([]string{"build", "--progress", "plain", "-t", name, "-f", file}, b.network...)
	_, err := b.run(append(append(all, args...), context)...)
	return err
}

// outcome builds a case and describes all of what it leaves.
func (b *builder) outcome(cache *suite.LayerCache, c *suite.Case, dir string, began time.Time) (*suite.Outcome, error) {
	name := "conformance-" + c.Name
	if err := b.build(name, c.File, c.Context, c.Args...); err != nil {
		return nil, err
	}
	archive := filepath.Join(dir, "saved.tar")
	if _, err := b.run("save", "-o", archive, name); err != nil {
		return nil, err
	}
	defer os.Remove(archive)
	img, err := cache.ReadImage(archive)
	if err != nil {
		return nil, err
	}
	return suite.Describe(c, img, &suite.Bases{}, began, nil)
}

// loadBases imports stand-ins into the peer, and what the peer then has into
// the others: all build on the very same images.
func loadBases(dir string, peer *builder, others []*builder, names []string) error {
	load := exec.Command("../standins/load", append([]string{"--with", peer.program}, names...)...)
	load.Env = peer.env
	if out, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("standins/load: %w\n%s", err, out)
	}
	archive := filepath.Join(dir, "bases.tar")
	defer os.Remove(archive)
	if _, err := peer.run(append([]string{"save", "-o", archive}, names...)...); err != nil {
		return err
	}
	for _, b := range others {
		if _, err := b.run("load", "-i", archive); err != nil {
			return err
		}
	}
	return nil
}

// startPeer starts a dockerd of this test's own: socket, data and processes
// lie in dir, and the machine's network stays as it is.
func startPeer(t *testing.T, dir string) *builder {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: dockerd runs as root only")
	}
	daemon, err := exec.LookPath("dockerd")
	if err != nil {
		t.Skip("needs dockerd")
	}
	client := os.Getenv("DOCKER") // /usr/bin/docker: Debian's, of the same version as its dockerd
	if client == "" {
		client = "/usr/bin/docker"
	}
	host := "unix://" + filepath.Join(dir, "socket")
	cmd := exec.Command(daemon, "-H", host, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")
	// Should the test be killed, the daemon ends as if it had been asked to.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	ended := make(chan error, 1)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about this thread's death
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stop(cmd.Process, ended), unmountBelow(dir)); err != nil {
			t.Errorf("dockerd: %v", err)
		}
	})
	b := &builder{program: client, network: []string{"--network", "host"}}
	b.env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_BUILDKIT=1", "DOCKER_CONFIG="+dir, "DOCKER_CONTEXT=")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := b.run("version")
		if err == nil {
			return b
		}
		select {
		case end := <-ended:
			ended <- end
			t.Fatalf("dockerd: %v\n%s", end, tail(log.String()))
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("dockerd does not answer: %v", err)
		}
	}
}

// stop ends dockerd, which ends its containerd and its mounts.
func stop(p *os.Process, ended chan error) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("still there 30 seconds after SIGTERM"), p.Kill())
	}
}

// unmountBelow ends the mounts in dir that dockerd leaves: those of the network
// of containers.
func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[1], dir+"/") {
			continue
		}
		if err := syscall.Unmount(f[1], 0); err != nil {
			return fmt.Errorf("unmount %s: %w", f[1], err)
		}
	}
	return nil
}

// whittle returns the program with a store of its own in dir and a provider.
func whittle(program, dir, provider string) *builder {
	b := &builder{program: program, network: []string{"--network", "host"}}
	b.env = append(os.Environ(), "WHITTLE_ROOT="+filepath.Join(dir, provider), "WHITTLE_ROOTFS="+provider)
	return b
}
