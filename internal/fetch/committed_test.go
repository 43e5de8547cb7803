package fetch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheTimeOfACommitIsItsCommitters(t *testing.T) {
	for text, want := range map[string]string{
		"tree 1\nauthor A <a@b> 100 +0100\ncommitter C D > <c> 1700000000 -0330\n\ncommitter E <e> 5 +0000\n": "2023-11-14T22:13:20Z",
		"tree 1\ncommitter  <> 0 +0000\n\n":                  "1970-01-01T00:00:00Z",
		"tree 1\n\ncommitter E <e> 5 +0000\n":                "says not when",
		"committer E <e> x +0000\n":                          "is no time",
		"committer E <e> 99999999999999999999 +0000\n":       "is no time",
		"gpgsig -----\n committer E <e> 5 +0000\n -----\n\n": "says not when",
		"": "says not when",
	} {
		got, err := committer([]byte(text))
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && got.Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
}

// A repository's configuration names programs; none of them is run.
func TestAHostileRepositoryRunsNothing(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	dir, mark := t.TempDir(), filepath.Join(t.TempDir(), "was-run")
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git("init", "-q")
	for key, value := range map[string]string{
		"core.repositoryFormatVersion": "1", "extensions.partialClone": "evil", "core.fsmonitor": "touch " + mark, "core.hooksPath": dir,
		"remote.evil.url": dir, "remote.evil.promisor": "true", "remote.evil.uploadpack": "touch " + mark + "; false", "core.sshCommand": "touch " + mark,
	} {
		git("config", key, value)
	}
	// The commit that HEAD names is not there.
	if err := os.WriteFile(filepath.Join(dir, ".git/HEAD"), []byte(strings.Repeat("1", 40)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{dir, "ext::touch " + mark, "ssh://nowhere/x"} {
		git("config", "remote.evil.url", url)
		if when, err := Committed(t.Context(), "", dir); err == nil {
			t.Errorf("%s: %v", url, when)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Fatalf("%s: a program of the repository's was run", url)
		}
	}
}
