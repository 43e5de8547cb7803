package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Debian's dockerd and the client of the same version.
const (
	dockerdPath = "/usr/sbin/dockerd"
	dockerPath  = "/usr/bin/docker"
)

// copyAndRun is whittle against BuildKit as dockerd has it, both with nothing
// cached but the base image.
func copyAndRun(ctx context.Context, b *bench, provider string) (pair, error) {
	dir, err := b.files(50000)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM busybox\nCOPY tree /tree\nRUN ls /tree | wc -l\n"), 0o644)
	}
	if err != nil {
		return pair{}, err
	}
	p := pair{subject: b.build(provider, dir), close: func() error { return os.RemoveAll(dir) }}
	d, err := b.startDockerd(ctx)
	if err != nil {
		p.why = "no peer: " + err.Error()
		return p, nil
	}
	p.close = func() error { return errors.Join(d.stop(), os.RemoveAll(dir)) }
	p.floor = func(ctx context.Context) (sample, error) {
		if out, err := d.docker(ctx, "builder", "prune", "-af").CombinedOutput(); err != nil {
			return sample{}, fmt.Errorf("docker builder prune: %w\n%s", err, out)
		}
		return timed(d.docker(ctx, "build", "-q", "--network", "host", dir), false)
	}
	return p, nil
}

// dockerd is a daemon of the suite's own.
type dockerd struct {
	cmd  *exec.Cmd
	host string
}

// startDockerd starts a dockerd without networks, on a socket and with data in
// the suite's folder, and gives it the busybox stand-in.
func (b *bench) startDockerd(ctx context.Context) (*dockerd, error) {
	for _, p := range []string{dockerdPath, dockerPath} {
		if _, err := os.Stat(p); err != nil {
			return nil, errors.New(p + " is not there (package docker.io)")
		}
	}
	if os.Getuid() != 0 {
		return nil, errors.New("dockerd needs root")
	}
	dir, err := b.folder()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &dockerd{host: "unix://" + filepath.Join(dir, "socket")}
	// Not CommandContext: an interrupt must let it unmount what it has mounted.
	d.cmd = exec.Command(dockerdPath, "-H", d.host, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	if err := d.ready(ctx); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	load := exec.CommandContext(ctx, "standins/load", "--with", dockerPath+" -H "+d.host, "busybox")
	load.Env = b.env("", "")
	if out, err := load.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("standins/load: %w\n%s", err, out), d.stop())
	}
	return d, nil
}

func (d *dockerd) docker(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, dockerPath, append([]string{"-H", d.host}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	return cmd
}

func (d *dockerd) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("dockerd does not answer"))
	defer cancel()
	for {
		if d.docker(ctx, "version").Run() == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stop ends the daemon in order; its containerd ends with it.
func (d *dockerd) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := d.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}
