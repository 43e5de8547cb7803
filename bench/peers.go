package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/whittle-build/whittle/test/buildkitd"
	"github.com/whittle-build/whittle/test/dockerd"
)

// fastGunzip are programs that containerd and dockerd decompress with when they are
// there (packages isal and pigz). whittle has the first one.
var fastGunzip = [...]string{"igzip", "unpigz"}

func decompressors(programs []string) string {
	list := []string{"layers decompressed by its own code"}
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			list = append(list, "or "+name+" (which is there)")
		}
	}
	return strings.Join(list, " ")
}

// moby is buildkitd with its OCI worker.
type moby struct {
	suite   *suite
	server  *buildkitd.Daemon
	version string
	had     []string // stand-ins
}

func (s *suite) newBuildkitd(context.Context) (builder, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("buildkitd needs root")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, errors.New("buildkitd needs runc")
	}
	bin, err := buildkitd.Programs(".")
	if err != nil {
		return nil, err
	}
	m := &moby{suite: s}
	if m.version, err = buildkitd.Version(filepath.Join(bin, "buildkitd")); err != nil {
		return nil, err
	}
	dir, err := s.folder()
	if err != nil {
		return nil, err
	}
	m.server, err = buildkitd.Start(bin, dir, s.registry.host)
	return m, err
}

func (m *moby) name() string { return "buildkitd" }
func (m *moby) about() string {
	return m.version + ", OCI worker, overlayfs, steps in the machine's network, base images pinned by digest, " +
		"exporter type=image with compression=uncompressed; " + decompressors(fastGunzip[:])
}
func (m *moby) programs() []string {
	return append([]string{"buildkitd", "buildctl", "runc"}, fastGunzip[:]...)
}
func (m *moby) daemon() int { return m.server.Process.Pid }

// base names the digest: nothing else is looked up without asking the registry.
func (m *moby) base(standIn string) string { return m.suite.registry.pinned(standIn) }

func (m *moby) have(ctx context.Context, standIn string) error {
	m.had = append(m.had, standIn)
	return m.warm(ctx, standIn)
}

func (m *moby) warm(ctx context.Context, standIn string) error {
	dir, err := m.suite.context("FROM " + m.base(standIn) + "\nRUN true\n")
	if err != nil {
		return err
	}
	return quiet(m.build(ctx, job{dir: dir}))
}

// forget empties the cache, base images and what was sent of contexts too, and
// has the bases again.
func (m *moby) forget(ctx context.Context) error {
	if err := m.server.Forget(); err != nil {
		return err
	}
	for _, s := range m.had {
		if err := m.warm(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (m *moby) build(ctx context.Context, j job) *exec.Cmd {
	args := []string{"build", "--frontend", "dockerfile.v0", "--progress", "plain", "--local", "context=" + j.dir, "--local", "dockerfile=" + j.dir,
		"--allow", "network.host", "--opt", "force-network-mode=host"}
	for _, a := range arguments(m, j) {
		args = append(args, "--opt", "build-arg:"+a)
	}
	if j.noCache {
		args = append(args, "--no-cache")
	}
	if j.cache != "" {
		args = append(args, "--import-cache", "type=registry,ref="+j.cache)
	}
	if j.export {
		args = append(args, "--export-cache", "type=registry,mode=max,ref="+j.cache)
	}
	out := "type=image,compression=uncompressed,name=" + m.suite.tag(j)
	switch {
	case j.archive != "":
		out = "type=oci,force-compression=true,compression=" + j.form + ",dest=" + j.archive
	case j.push != "" && j.form == "":
		out = "type=image,push=true,name=" + j.push
	case j.push != "":
		// Without force it would send what it has: uncompressed.
		out = "type=image,push=true,force-compression=true,compression=" + j.form + ",name=" + j.push
	}
	return m.server.Command(ctx, append(args, "--output", out)...)
}

func (m *moby) close() error { return m.server.Stop() }

// docker is Debian's dockerd, with the builder that it had first or with the
// BuildKit that is in it. Both are one daemon.
type docker struct {
	suite    *suite
	server   *dockerd.Daemon
	version  string
	buildkit bool
	shared   bool // another one ends the daemon
}

func (s *suite) newDocker(ctx context.Context) (classic, buildkit builder, err error) {
	if why := dockerd.Missing(); why != "" {
		return nil, nil, errors.New(why)
	}
	dir, err := s.folder()
	if err != nil {
		return nil, nil, err
	}
	d, err := dockerd.Start(dir)
	if err != nil {
		return nil, nil, err
	}
	out, err := d.Run("version", "--format", "{{.Server.Version}}")
	if err != nil {
		return nil, nil, errors.Join(err, d.Stop())
	}
	version := "dockerd " + strings.TrimSpace(string(out))
	return &docker{suite: s, server: d, version: version, shared: true}, &docker{suite: s, server: d, version: version, buildkit: true}, nil
}

func (d *docker) name() string {
	if d.buildkit {
		return "dockerd BuildKit"
	}
	return "dockerd classic"
}

func (d *docker) about() string {
	return d.version + ", overlay2, steps in the machine's network, base images in its own store; " + decompressors(fastGunzip[:]) +
		"; bytes that its first builder's steps read and write are not counted, no process of its own has them"
}

func (d *docker) programs() []string {
	return append([]string{"dockerd", "docker", "containerd", "containerd-shim-runc-v2", "runc"}, fastGunzip[:]...)
}
func (d *docker) daemon() int                { return d.server.PID() }
func (d *docker) base(standIn string) string { return d.suite.registry.image(standIn) }

func (d *docker) docker(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.server.Client, args...)
	cmd.Env = d.server.Env
	if !d.buildkit {
		cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], "DOCKER_BUILDKIT=0")
	}
	return cmd
}

func (d *docker) have(ctx context.Context, standIn string) error {
	return quiet(d.docker(ctx, "pull", "-q", d.base(standIn)))
}

func (d *docker) forget(ctx context.Context) error {
	return errors.Join(quiet(d.docker(ctx, "builder", "prune", "-af")), quiet(d.docker(ctx, "image", "prune", "-f")))
}

func (d *docker) build(ctx context.Context, j job) *exec.Cmd {
	return d.docker(ctx, append([]string{"build", "-q", "--network", "host"}, flags(d, j)...)...)
}

func (d *docker) close() error {
	if d.shared {
		return nil
	}
	return d.server.Stop()
}

// buildah is Debian's. It has no daemon.
type buildah struct {
	suite   *suite
	dir     string
	version string
}

func (s *suite) newBuildah(ctx context.Context) (builder, error) {
	if _, err := exec.LookPath("buildah"); err != nil {
		return nil, errors.New("buildah is not there (package buildah)")
	}
	dir, err := s.folder()
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "buildah", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("buildah --version: %w", err)
	}
	f := strings.Fields(string(out))
	b := &buildah{suite: s, dir: dir, version: strings.Join(f[:min(3, len(f))], " ")}
	return b, os.WriteFile(filepath.Join(dir, "policy.json"), []byte(anyImage), 0o644)
}

// anyImage is the policy by which buildah takes images without signatures.
const anyImage = `{"default":[{"type":"insecureAcceptAnything"}]}`

func (b *buildah) name() string { return "buildah" }
func (b *buildah) about() string {
	return b.version + ", overlay of the kernel, --isolation chroot (its fastest), --layers --jobs 0"
}
func (b *buildah) programs() []string { return []string{"buildah", "crun", "runc", "conmon"} }
func (b *buildah) daemon() int        { return 0 }

func (b *buildah) base(standIn string) string { return b.suite.registry.image(standIn) }

func (b *buildah) command(ctx context.Context, verb string, args ...string) *exec.Cmd {
	all := append([]string{"--root", b.dir + "/root", "--runroot", b.dir + "/run", "--storage-driver", "overlay", verb}, args...)
	cmd := exec.CommandContext(ctx, "buildah", all...)
	cmd.Env = append(b.suite.env(), "BUILDAH_ISOLATION=chroot", "TMPDIR="+b.dir)
	return cmd
}

func (b *buildah) have(ctx context.Context, standIn string) error {
	return quiet(b.command(ctx, "pull", "-q", "--tls-verify=false", "--signature-policy", b.dir+"/policy.json", b.base(standIn)))
}

func (b *buildah) forget(ctx context.Context) error {
	return quiet(b.command(ctx, "rmi", "--prune", "--force"))
}

func (b *buildah) build(ctx context.Context, j job) *exec.Cmd {
	args := []string{"-q", "--layers", "--jobs", "0", "--network", "host", "--tls-verify=false", "--pull=false", "--signature-policy", b.dir + "/policy.json"}
	if j.cache != "" {
		args = append(args, "--cache-from", j.cache)
	}
	if j.export {
		args = append(args, "--cache-to", j.cache)
	}
	return b.command(ctx, "bud", append(args, flags(b, j)...)...)
}

func (b *buildah) close() error {
	err := quiet(b.command(context.Background(), "rmi", "--all", "--force"))
	return errors.Join(err, os.RemoveAll(b.dir))
}
