package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// server is the registry that all builders pull from and push to: Debian's
// docker-registry on the loopback, with its data in the suite's folder.
type server struct {
	host    string // HOST:PORT
	data    string // folder
	cmd     *exec.Cmd
	digests map[string]string // of stand-ins' manifests
}

func (r *server) image(standIn string) string { return r.host + "/" + standIn + ":latest" }
func (r *server) pinned(standIn string) string {
	return r.host + "/" + standIn + "@" + r.digests[standIn]
}

// startRegistry starts the registry and pushes the stand-ins to it.
func (s *suite) startRegistry(ctx context.Context) (*server, error) {
	r, err := s.startServer()
	if err != nil {
		return nil, err
	}
	if err := s.publish(ctx, r); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// startServer starts a registry with nothing in it.
func (s *suite) startServer() (*server, error) {
	dir, err := s.folder()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &server{host: l.Addr().String(), digests: map[string]string{}, data: filepath.Join(dir, "data")}
	if err := l.Close(); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp: {addr: %q}\n", r.data, r.host)
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	r.cmd = exec.Command("docker-registry", "serve", file)
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (package docker-registry)", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res, err := http.Get("http://" + r.host + "/v2/")
		if err == nil {
			return r, res.Body.Close()
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("docker-registry does not answer: %w", err), r.stop())
		}
	}
}

// empty forgets all that was pushed: the registry looks for it on the disk each
// time.
func (r *server) empty() error { return os.RemoveAll(r.data) }

// publish pushes the stand-ins.
func (s *suite) publish(ctx context.Context, r *server) error {
	store, err := s.folder()
	if err != nil {
		return err
	}
	env := s.env("WHITTLE_ROOT=" + store)
	for _, in := range standIns {
		load := exec.CommandContext(ctx, "standins/load", in.name)
		load.Env = append(env, "WHITTLE="+s.whittle)
		if err := quiet(load); err != nil {
			return err
		}
		for _, args := range [][]string{{"tag", in.name, r.image(in.name)}, {"push", "-q", r.image(in.name)}} {
			cmd := exec.CommandContext(ctx, s.whittle, args...)
			cmd.Env = env
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("%v: %w", cmd.Args, err)
			}
			r.digests[in.name] = strings.TrimSpace(string(out))
		}
	}
	return os.RemoveAll(store)
}

func (r *server) stop() error {
	err := r.cmd.Process.Kill()
	_ = r.cmd.Wait() // it was killed
	return err
}
