package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// rootlessUser is who builds where the suite is run by root; .ci/run makes it,
// with subordinate ids.
const rootlessUser = "whittle-ci"

// run20User has the steps of run20 built by a plain user, with the one provider
// that a user has. The floor is the same build by root.
func run20User(ctx context.Context, s *suite) (*scene, error) {
	sc, err := run20(ctx, s)
	if err != nil {
		return nil, err
	}
	u, err := s.plainUser(ctx, sc)
	if err != nil {
		return nil, err
	}
	sc.run = func(ctx context.Context, b builder, j job) (sample, error) {
		if b != u.root {
			return sample{}, errNotAUsers
		}
		return timed(u.whittle(ctx, "build", "-q", "--no-cache", "--build-arg", "BUSYBOX=busybox", j.dir), b)
	}
	sc.floor = func(ctx context.Context, _ int) (sample, error) { return timed(u.root.build(ctx, sc.job), nil) }
	return sc, nil
}

// chmodLargeUser has chmod-1g built by a plain user, for whom overlayfs copies whole
// what a chmod touches (Documentation/filesystems/overlayfs.rst, "metadata only
// copy up"). The floor is buildah as the same user.
func chmodLargeUser(ctx context.Context, s *suite) (*scene, error) {
	sc, err := chmodLarge(ctx, s)
	if err != nil {
		return nil, err
	}
	u, err := s.plainUser(ctx, sc)
	if err != nil {
		return nil, err
	}
	w := func(ctx context.Context, n int) *exec.Cmd {
		return u.whittle(ctx, "build", "-q", "--build-arg", "BUSYBOX=busybox", "--build-arg", fmt.Sprint("N=", n), sc.job.dir)
	}
	peer := func(ctx context.Context, n int) *exec.Cmd {
		return u.buildah(ctx, "bud", "-q", "--layers", "--network", "host", "--pull=false", "--tls-verify=false", "--signature-policy", u.policy,
			"--build-arg", "BUSYBOX="+s.registry.image("busybox"), "--build-arg", fmt.Sprint("N=", n), sc.job.dir)
	}
	runs := 0
	sc.prime = func(ctx context.Context, b builder) error {
		if b != u.root {
			return errNotAUsers
		}
		return errors.Join(quiet(w(ctx, 0)), u.buildahPull(ctx, s.registry.image("busybox")), quiet(peer(ctx, 0)))
	}
	sc.ready = nil
	sc.run = func(ctx context.Context, b builder, _ job) (sample, error) {
		runs++
		return timed(w(ctx, runs), b)
	}
	sc.floor = func(ctx context.Context, n int) (sample, error) { return timed(peer(ctx, n+1), nil) }
	sc.close = func() error { return errors.Join(os.RemoveAll(u.store()), os.RemoveAll(u.storage())) }
	return sc, nil
}

var errNotAUsers = errors.New("not a user's")

// builder returns the one of that name; nil when it is not here.
func (s *suite) builder(name string) *whittle {
	for _, b := range s.builders {
		if w, ok := b.(*whittle); ok && w.name() == name {
			return w
		}
	}
	return nil
}

// plainUser is rootlessUser with a home in the suite's folder, in whose store of
// whittle is the busybox stand-in. Rows show the figures as those of root's
// builder with the same provider.
type plainUser struct {
	root    *whittle
	home    string
	program string
	policy  string // of buildah
	as      syscall.Credential
}

func (s *suite) plainUser(ctx context.Context, sc *scene) (*plainUser, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("not here: this user's own figures are those of the row without -user")
	}
	u := &plainUser{root: s.builder("whittle tree")}
	if u.root == nil {
		return nil, errors.New("not here: root has no provider tree to compare with")
	}
	account, err := user.Lookup(rootlessUser)
	if err != nil {
		return nil, fmt.Errorf("not here: %w", err)
	}
	uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
	var err3 error
	u.home, err3 = s.folder()
	if err := errors.Join(err1, err2, err3, s.need(ctx, u.root, "busybox")); err != nil {
		return nil, err
	}
	u.as = syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	// What the user needs: a way there, a folder, the program, the image.
	image := filepath.Join(u.home, "busybox.tar")
	u.program, u.policy = filepath.Join(u.home, filepath.Base(s.whittle)), filepath.Join(u.home, "policy.json")
	err = errors.Join(quiet(exec.CommandContext(ctx, "cp", s.whittle, u.program)),
		quiet(u.root.command(ctx, "tag", u.root.base("busybox"), "busybox")),
		quiet(u.root.command(ctx, "save", "-o", image, "busybox")),
		os.WriteFile(u.policy, []byte(anyImage), 0o644),
		os.Chmod(s.dir, 0o711), os.Chmod(sc.job.dir, 0o755), os.Chmod(u.program, 0o755),
		os.Chown(u.home, int(uid), int(gid)), os.Chmod(image, 0o644))
	if err != nil {
		return nil, err
	}
	return u, quiet(u.whittle(ctx, "load", "-i", image))
}

func (u *plainUser) store() string   { return filepath.Join(u.home, "store") }
func (u *plainUser) storage() string { return filepath.Join(u.home, "buildah") }

func (u *plainUser) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = u.home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "USER=" + rootlessUser,
		"WHITTLE_ROOTFS=tree", "WHITTLE_ROOT=" + u.store(), "BUILDAH_ISOLATION=chroot", "XDG_RUNTIME_DIR=" + u.home}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &u.as}
	return cmd
}

func (u *plainUser) whittle(ctx context.Context, args ...string) *exec.Cmd {
	return u.command(ctx, u.program, args...)
}

func (u *plainUser) buildah(ctx context.Context, verb string, args ...string) *exec.Cmd {
	where := []string{"--root", u.storage(), "--runroot", u.storage() + "/run", "--storage-driver", "overlay", verb}
	return u.command(ctx, "buildah", append(where, args...)...)
}

func (u *plainUser) buildahPull(ctx context.Context, image string) error {
	return quiet(u.buildah(ctx, "pull", "-q", "--tls-verify=false", "--signature-policy", u.policy, image))
}
