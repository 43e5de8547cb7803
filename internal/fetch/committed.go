package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Committed is when the commit was made that the working tree of git has checked out which
// dir is in. program is git's; "" is the one in PATH. Nothing of the repository's
// configuration is run.
func Committed(ctx context.Context, program, dir string) (time.Time, error) {
	path, err := gitPath(program)
	if err != nil {
		return time.Time{}, &Error{What: dir, Msg: "to tell when it was committed needs the program git, which is not there", Way: "install git, or give the time in seconds"}
	}
	// A repository may say that what it lacks is to be had elsewhere, and by which program:
	// nothing is fetched, by no protocol (git(1); older ones do not know GIT_NO_LAZY_FETCH).
	// In a hook the environment names another repository.
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GIT_") && !strings.HasPrefix(kv, "GIT_CONFIG")
	})
	env = append(env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none")
	out := &capped{most: 1 << 20}
	err = runGit(ctx, path, env, out, dir, "cat-file", "commit", "HEAD")
	var bad *gitError
	if errors.As(err, &bad) {
		return time.Time{}, &Error{What: dir, Msg: "has no commit to take the time of: " + bad.said(),
			Way: "give the time in seconds, or build in a checkout of git (of another user's: git config --global --add safe.directory DIR)"}
	}
	if err != nil {
		return time.Time{}, err
	}
	return committer(out.Bytes())
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
