package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// ProbeChroot says whether steps can run in a chroot with their roots below
// dir, by starting one there: nil is yes. It leaves nothing in dir.
func ProbeChroot(dir string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("only root may chroot")
	}
	if err := lacking(); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_NOEXEC != 0 {
		return errors.New("the store's file system is mounted noexec, and a step's programs would lie there: give a folder elsewhere with --root")
	}
	tmp, err := os.MkdirTemp(dir, "chroot-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	root, scratch := filepath.Join(tmp, "root"), filepath.Join(tmp, "scratch")
	for _, d := range []string{root, scratch} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// In an empty root there is no program, and the last that a start does is to
	// find that out.
	_, err = Run(context.Background(), &Config{Root: f, Scratch: scratch, Isolation: Isolation{Mode: Chroot}, Args: []string{"/probe"}})
	var start *StartError
	if errors.As(err, &start) && start.Op == "exec" && start.Path == "/probe" && errors.Is(start.Err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = errors.New("a program that is not there was run")
	}
	return fmt.Errorf("a step cannot be started in a chroot: %w", err)
}

// CapsError is why root cannot run a step in a chroot.
type CapsError struct {
	Missing []string // capabilities, as "SYS_CHROOT"
}

func (e *CapsError) Error() string {
	return "root lacks capabilities here: " + strings.Join(e.Missing, ", ")
}

// Hint returns the way out.
func (e *CapsError) Hint() string {
	return "give the container Docker's default capabilities (docker run without --cap-drop; Kubernetes: no drop in securityContext.capabilities), or run whittle as a user who is not root and has subordinate ids"
}

// lacking is what keeps root from running a step in a chroot.
func lacking() error {
	missing, err := initproc.MissingCaps()
	if err == nil && len(missing) > 0 {
		err = &CapsError{missing}
	}
	return err
}

// RootCannot is why root, who may be one in name only, can run no step here in
// any way; nil when one can be tried.
func RootCannot() error {
	if may, err := initproc.MayMount(); err != nil || may {
		return err
	}
	return lacking()
}
