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
	"time"
)

// rootlessUser is who builds where the suite is run by root; .ci/run makes it,
// with subordinate ids.
const rootlessUser = "whittle-ci"

// rootlessRuns are the steps of trivialRuns as a plain user builds them; the
// floor is the same build by root, in the same run.
func rootlessRuns(ctx context.Context, b *bench, provider string) (pair, error) {
	if os.Getuid() != 0 {
		return pair{why: "not here: this user's own figures are those of the row before"}, nil
	}
	u, err := user.Lookup(rootlessUser)
	if err != nil {
		return pair{why: "not here: " + err.Error()}, nil
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return pair{}, err
	}
	text := "FROM busybox\n"
	for i := range trivialSteps {
		text += fmt.Sprintf("RUN exit 0; %d\n", i)
	}
	dir, err := b.context(text)
	if err != nil {
		return pair{}, err
	}
	home, err := b.folder()
	if err != nil {
		return pair{}, err
	}
	// What the user needs: a way there, a folder, the program, the image.
	program, image := filepath.Join(home, "whittle"), filepath.Join(home, "busybox.tar")
	out, err := exec.CommandContext(ctx, "cp", b.whittle, program).CombinedOutput()
	if err == nil {
		out, err = b.command(ctx, provider, b.stores[provider], "save", "-o", image, "busybox").CombinedOutput()
	}
	err = errors.Join(err, os.Chmod(b.dir, 0o711), os.Chmod(dir, 0o755), os.Chmod(program, 0o755), os.Chown(home, int(uid), int(gid)), os.Chmod(image, 0o644))
	if err != nil {
		return pair{}, fmt.Errorf("%w\n%s", err, out)
	}
	as := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Dir = home
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "WHITTLE_ROOTFS=" + provider, "WHITTLE_ROOT=" + filepath.Join(home, "store")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return cmd
	}
	if out, err := as(ctx, "load", "-i", image).CombinedOutput(); err != nil {
		return pair{}, fmt.Errorf("load as %s: %w\n%s", rootlessUser, err, out)
	}
	return pair{
		subject: func(ctx context.Context) (sample, error) {
			return timed(as(ctx, "build", "-q", "--no-cache", dir), true)
		},
		floor: b.rebuild(provider, dir),
	}, nil
}

// rootlessTarget is for one step.
const rootlessTarget = 15 * time.Millisecond
