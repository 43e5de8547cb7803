package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/whittle-build/whittle/conformance/suite"
)

// A peer is a buildkitd of this run's own.
type peer struct {
	buildctl string
	address  string
	dir      string
	process  *os.Process
	ended    chan error
}

// offline lets nothing but the loopback be reached: what else is asked for is
// asked of a proxy that is not there.
func offline() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasSuffix(strings.ToUpper(strings.SplitN(kv, "=", 2)[0]), "_PROXY")
	})
	return append(env, "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost")
}

// programs returns the folder of buildkitd and buildctl: $WHITTLE_PEERS, or one
// in which they are built from test/peers.
func programs(top string) (string, error) {
	if dir := os.Getenv("WHITTLE_PEERS"); dir != "" {
		return dir, nil
	}
	dir := filepath.Join(top, ".cache/peers")
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

// version is that of the module that a program was built from.
func version(program string) (string, error) {
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

// startPeer starts buildkitd with all that is its own in dir. Images of
// docker.io come from registry.
func startPeer(bin, dir, registry string) (*peer, error) {
	p := &peer{buildctl: filepath.Join(bin, "buildctl"), address: "unix://" + filepath.Join(dir, "socket"), dir: dir}
	daemon := filepath.Join(bin, "buildkitd")
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
	cmd := exec.Command(daemon, "--config", filepath.Join(dir, "config.toml"), "--root", filepath.Join(dir, "root"), "--addr", p.address)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = offline()
	// A terminal's signals are for the recorder, which then ends the daemon.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.process, p.ended = cmd.Process, make(chan error, 1)
	go func() { p.ended <- cmd.Wait() }()
	return p, p.answers(log.Name())
}

func (p *peer) answers(log string) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if exec.Command(p.buildctl, "--addr", p.address, "debug", "workers").Run() == nil {
			// Without it, steps get no socket for traces, whose place in /dev
			// would come to be in the layers.
			return os.Remove(filepath.Join(p.dir, "trace"))
		}
		select {
		case err := <-p.ended:
			text, readErr := os.ReadFile(log)
			return errors.Join(fmt.Errorf("buildkitd ended: %w\n%s", err, text), readErr)
		default:
		}
	}
	return errors.Join(errors.New("buildkitd does not answer"), p.stop())
}

func (p *peer) stop() error {
	if err := p.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended: // with an error, as always after a signal
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("buildkitd: still there 30 seconds after SIGTERM"), p.process.Kill())
	}
}

// forget empties the daemon's cache. Else a case would get what another one left:
// the times of files, which are in no key, caches of mounts, and even contents,
// since a client's folders are believed to differ only where sizes and times do.
func (p *peer) forget() error {
	if out, err := exec.Command(p.buildctl, "--addr", p.address, "prune", "--all").CombinedOutput(); err != nil {
		return fmt.Errorf("buildctl prune: %w\n%s", err, out)
	}
	return nil
}

// build runs buildctl and returns the lint warnings, and the error if there is
// one.
func (p *peer) build(c *suite.Case, args []string) (lint []string, failed string) {
	cmd := exec.Command(p.buildctl, append([]string{"--addr", p.address, "build", "--frontend", "dockerfile.v0", "--progress", "rawjson"}, args...)...)
	cmd.Dir = c.Dir
	cmd.Env = append(offline(), c.Env...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	var rest []string
	for line := range strings.SplitSeq(said.String(), "\n") {
		if strings.HasPrefix(line, "{") {
			lint = append(lint, warnings(line)...)
			continue
		}
		rest = append(rest, line)
	}
	if err == nil {
		return suite.SortLint(lint), ""
	}
	return suite.SortLint(lint), errorText(strings.Join(rest, "\n"))
}

func warnings(line string) []string {
	var status struct {
		Warnings []struct {
			Short []byte
			URL   string
			Range []struct{ Start struct{ Line int } }
		}
	}
	if json.Unmarshal([]byte(line), &status) != nil {
		return nil
	}
	var list []string
	for _, w := range status.Warnings {
		if !strings.Contains(w.URL, "/dockerfile/rule/") || len(w.Range) == 0 {
			continue
		}
		n := w.Range[0].Start.Line
		list = append(list, fmt.Sprintf("%d %s", n, strings.TrimSuffix(string(w.Short), fmt.Sprintf(" (line %d)", n))))
	}
	return list
}

// mounted is where the peer has, on its own machine, what it copies to and
// from.
var mounted = regexp.MustCompile(`/[^ :]*/(cachemounts/buildkit[0-9]+|snapshots/snapshots/[0-9]+/fs)`)

// random matches the ids of results, which are others in each run.
var random = regexp.MustCompile(`[a-z0-9]{25}(::[a-z0-9]{25})?`)

// errorText is what buildctl says at last, without what leads up to it.
func errorText(said string) string {
	if i := strings.LastIndex(said, "error: "); i >= 0 {
		said = said[i+len("error: "):]
	}
	said = strings.TrimPrefix(strings.TrimSpace(said), "failed to solve: ")
	return random.ReplaceAllString(mounted.ReplaceAllString(said, ""), "ID")
}
