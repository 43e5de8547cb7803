// Package dockerd starts a dockerd for a test, from the machine's package, and
// ends it. Everything that is the daemon's lies in one folder: socket, data and
// the state of what it runs; the machine's network stays as it is. Nothing but
// the one who started a daemon speaks with it.
package dockerd

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
	"time"
)

// A Daemon is a running dockerd. Clients reach it with Env.
type Daemon struct {
	Client string // docker's command line, of the same version
	Env    []string
	dir    string
	run    string // of its sockets
	proc   *os.Process
	ended  chan error
	log    bytes.Buffer // read it when the daemon has ended, and no sooner
}

// Missing says what keeps dockerd from running here, as the reason of a
// skip; "" when nothing does.
func Missing() string {
	if os.Getuid() != 0 {
		return "needs root: dockerd runs as root only"
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		return "needs dockerd"
	}
	return ""
}

// Start starts a dockerd with all that it keeps in the folder dir, and
// returns when it answers. Should the caller be killed, the daemon ends as if
// it had been asked to.
func Start(dir string) (*Daemon, error) {
	d := &Daemon{Client: os.Getenv("DOCKER"), dir: dir, ended: make(chan error, 1)}
	if d.Client == "" {
		d.Client = "/usr/bin/docker" // Debian's, of the same version as its dockerd
	}
	// A socket's path has at most 107 bytes (unix(7)), and that of dir may be
	// longer.
	var err error
	if d.run, err = os.MkdirTemp("/tmp", "dockerd"); err != nil {
		return nil, err
	}
	host := "unix://" + filepath.Join(d.run, "socket")
	d.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_BUILDKIT=1", "DOCKER_CONFIG="+dir, "DOCKER_CONTEXT=")
	cmd := exec.Command("dockerd", "-H", host, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(d.run, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about this thread's death
		err := cmd.Start()
		started <- err
		if err == nil {
			d.ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("dockerd: %w", err), d.clean())
	}
	d.proc = cmd.Process
	return d, d.await()
}

// await waits until the daemon answers, and ends it when it does not.
func (d *Daemon) await() error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := d.Run("version")
		if err == nil {
			return nil
		}
		select {
		case end := <-d.ended:
			return errors.Join(fmt.Errorf("dockerd: %v\n%s", end, tail(d.log.String())), d.clean())
		default:
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("dockerd does not answer: %w", err), d.Stop())
		}
	}
}

// Run runs a command of the client and returns what it prints. Its error ends
// with what the command said.
func (d *Daemon) Run(args ...string) ([]byte, error) {
	cmd := exec.Command(d.Client, args...)
	cmd.Env = d.Env
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("docker %s: %w\n%s", strings.Join(args, " "), err, tail(said.String()+out.String()))
	}
	return out.Bytes(), nil
}

// Stop ends the daemon, which ends its containerd and the mounts of its
// containers; those of their network it leaves, and Stop ends them.
func (d *Daemon) Stop() error {
	return errors.Join(d.end(), d.clean())
}

// clean ends the mounts that a daemon leaves which has ended, and removes what
// it has outside of its folder.
func (d *Daemon) clean() error {
	if err := errors.Join(unmountBelow(d.dir), unmountBelow(d.run)); err != nil {
		return err
	}
	return os.RemoveAll(d.run)
}

func (d *Daemon) end() error {
	if err := d.proc.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-d.ended:
		return err
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("dockerd: still there 30 seconds after SIGTERM"), d.proc.Kill())
	}
}

// unmountBelow ends the mounts in dir that dockerd leaves.
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

func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// PID is the daemon's process.
func (d *Daemon) PID() int { return d.proc.Pid }
