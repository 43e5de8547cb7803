// Package buildkitd builds buildkitd and its client from test/peers, and starts
// one for a test or a benchmark. Everything that is the daemon's lies in one
// folder, and it reaches nothing but this machine.
package buildkitd

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Daemon is a running buildkitd.
type Daemon struct {
	Client  string // buildctl, of the same version
	Process *os.Process
	address string
	dir     string
	ended   chan error
}

// Offline is an environment that lets nothing but the loopback be reached: what else is asked for is
// asked of a proxy that is not there.
func Offline() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasSuffix(strings.ToUpper(strings.SplitN(kv, "=", 2)[0]), "_PROXY")
	})
	return append(env, "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost")
}

// Programs returns the folder of buildkitd and buildctl: $WHITTLE_PEERS, or one
// in which they are built from test/peers.
func Programs(top string) (string, error) {
	if dir := os.Getenv("WHITTLE_PEERS"); dir != "" {
		return dir, nil
	}
	dir, err := filepath.Abs(filepath.Join(top, ".cache/peers"))
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", dir+"/",
		"github.com/moby/buildkit/cmd/buildkitd", "github.com/moby/buildkit/cmd/buildctl")
	build.Dir = filepath.Join(top, "test/peers")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("test/peers: go build: %w\n%s", err, out)
	}
	return dir, nil
}

// Version is that of the module that a program was built from.
func Version(program string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", err
	}
	const module = "github.com/moby/buildkit"
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module {
			return "buildkitd " + m.Version, nil
		}
	}
	return "", fmt.Errorf("%s: not built from %s", program, module)
}

// Start starts the buildkitd in the folder bin with all that is its own in dir,
// and returns when it answers. It may speak HTTP with registry, a HOST:PORT of
// the loopback, and images of docker.io come from there.
func Start(bin, dir, registry string) (*Daemon, error) {
	d := &Daemon{Client: filepath.Join(bin, "buildctl"), address: "unix://" + filepath.Join(dir, "socket"), dir: dir}
	program := filepath.Join(bin, "buildkitd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`insecure-entitlements = ["network.host", "security.insecure", "device"]
[worker.oci]
  gc = false
  snapshotter = "overlayfs"
[worker.containerd]
  enabled = false
[otel]
  socketPath = %q
[registry."docker.io"]
  mirrors = [%q]
[registry.%q]
  http = true
  insecure = true
`, filepath.Join(dir, "trace"), registry, registry)
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, "--config", filepath.Join(dir, "config.toml"), "--root", filepath.Join(dir, "root"), "--addr", d.address)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = Offline()
	// A terminal's signals are for the recorder, which then ends the daemon.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d.Process, d.ended = cmd.Process, make(chan error, 1)
	go func() { d.ended <- cmd.Wait() }()
	return d, d.answers(log.Name())
}

func (d *Daemon) answers(log string) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if d.Command(context.Background(), "debug", "workers").Run() == nil {
			// Without it, steps get no socket for traces, whose place in /dev
			// would come to be in the layers.
			return os.Remove(filepath.Join(d.dir, "trace"))
		}
		select {
		case err := <-d.ended:
			text, readErr := os.ReadFile(log)
			return errors.Join(fmt.Errorf("buildkitd ended: %w\n%s", err, text), readErr)
		default:
		}
	}
	return errors.Join(errors.New("buildkitd does not answer"), d.Stop())
}

// Stop ends the daemon in order.
func (d *Daemon) Stop() error {
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.ended: // with an error, as always after a signal
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("buildkitd: still there 30 seconds after SIGTERM"), d.Process.Kill())
	}
}

// Forget empties the daemon's cache. Else a case would get what another one left:
// the times of files, which are in no key, caches of mounts, and even contents,
// since a client's folders are believed to differ only where sizes and times do.
func (d *Daemon) Forget() error {
	if out, err := d.Command(context.Background(), "prune", "--all").CombinedOutput(); err != nil {
		return fmt.Errorf("buildctl prune: %w\n%s", err, out)
	}
	return nil
}

// Command is a call of the client, which reaches nothing but this machine.
func (d *Daemon) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.Client, append([]string{"--addr", d.address}, args...)...)
	cmd.Env = Offline()
	return cmd
}
