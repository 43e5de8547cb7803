package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Committed is when the commit was made that the working tree of git has checked out which
// dir is in. program is git's; "" is the one in PATH. Nothing of the repository's
// configuration is run.
func Committed(ctx context.Context, program, dir string) (time.Time, error) {
	if program == "" {
		program = "git"
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return time.Time{}, &Error{What: dir, Msg: "to tell when it was committed needs the program git, which is not there", Way: "install git, or give the time in seconds"}
	}
	cmd := exec.CommandContext(ctx, path, "cat-file", "commit", "HEAD")
	cmd.Dir = dir
	// A repository may say that what it lacks is to be had elsewhere, and by which program:
	// nothing is fetched, by no protocol (git(1); older ones do not know GIT_NO_LAZY_FETCH).
	// In a hook the environment names another repository.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GIT_") && !strings.HasPrefix(kv, "GIT_CONFIG")
	})
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none")
	errs := &capped{most: 64 << 10}
	cmd.Stderr = errs
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return time.Time{}, context.Cause(ctx)
	}
	if err != nil {
		bad := &gitError{command: "cat-file", stderr: errs.String(), err: err}
		return time.Time{}, &Error{What: dir, Msg: "has no commit to take the time of: " + bad.said(), Way: "give the time in seconds, or build in a checkout of git (of another user's: git config --global --add safe.directory DIR)"}
	}
	return committer(out)
}

// committer reads the time out of a commit (git-commit-tree(1)): the headers end with an
// empty line.
func committer(commit []byte) (time.Time, error) {
	for line := range bytes.Lines(commit) {
		text := strings.TrimSuffix(string(line), "\n")
		if text == "" {
			break
		}
		rest, ok := strings.CutPrefix(text, "committer ")
		if !ok {
			continue
		}
		words := strings.Fields(rest[strings.LastIndexByte(rest, '>')+1:])
		if len(words) == 2 {
			n, err := strconv.ParseInt(words[0], 10, 64)
			if err != nil {
				return time.Time{}, fmt.Errorf("commit: %q is no time", words[0])
			}
			return time.Unix(n, 0).UTC(), nil
		}
	}
	return time.Time{}, errors.New("commit: says not when it was made")
}
