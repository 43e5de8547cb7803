package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperProgram puts a credential helper called test into PATH.
func helperProgram(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	helperIs(t, dir, script)
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	return dir
}

// grandchild is a line of a script that leaves a process running, which holds what its
// parent had open. It is ended with the test.
func grandchild(t *testing.T, dir string) string {
	t.Cleanup(func() {
		b, err := os.ReadFile(filepath.Join(dir, "pid"))
		pid, perr := strconv.Atoi(strings.TrimSpace(string(b)))
		if err := errors.Join(err, perr); err != nil {
			t.Error(err)
			return
		}
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be over
	})
	return fmt.Sprintf("sleep 60 & echo $! >%s/pid\n", dir)
}

func TestAHelperEndsThoughItLeavesAProcess(t *testing.T) {
	for name, tt := range map[string]struct{ rest, err string }{
		"it answers":    {`echo '{"Username":"user","Secret":"s"}'`, ""},
		"it never ends": {"while :; do wait; sleep 1; done", "credential helper test: too late"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := helperProgram(t, "")
			helperIs(t, dir, grandchild(t, dir)+tt.rest+"\n")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if tt.err != "" {
				go func() {
					for begun := false; !begun; time.Sleep(10 * time.Millisecond) {
						b, _ := os.ReadFile(filepath.Join(dir, "pid"))
						begun = bytes.HasSuffix(b, []byte("\n"))
					}
					cancel(errors.New("too late"))
				}()
			}
			began := time.Now()
			got, err := configFile(t, `{"credsStore": "test"}`).For(ctx, "a.example", "x")
			if tt.err == "" && (err != nil || got.Username != "user") || tt.err != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.err)) {
				t.Errorf("%+v, %v; want %q", got, err, tt.err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func helperIs(t *testing.T, dir, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestAHelperThatFailsIsQuoted(t *testing.T) {
	for name, tt := range map[string]struct{ script, err string }{
		"on its output":     {"echo 'exit status 2: gpg: decryption failed'; echo more; exit 1", "credential helper test: exit status 1: exit status 2: gpg: decryption failed"},
		"beside it":         {"echo 'pass: no such store' >&2; exit 3", "credential helper test: exit status 3: pass: no such store"},
		"as terminals obey": {`printf 'no\033[31m store\007\n'; exit 1`, "credential helper test: exit status 1: no store"},
		"with the secret":   {`echo '{"Secret":"geheim"}'; exit 1`, "credential helper test: exit status 1"},
		"silently":          {"exit 1", "credential helper test: exit status 1"},
		"it has nothing":    {"echo credentials not found in native keychain; exit 1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			helperProgram(t, tt.script+"\n")
			_, err := configFile(t, `{"credsStore": "test"}`).For(t.Context(), "a.example", "x")
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.err)) {
				t.Errorf("%v, want %q", err, tt.err)
			}
		})
	}
}

func TestAnEmptyHelperIsTheFile(t *testing.T) {
	k := configFile(t, `{"auths": {"a.example": {"auth": "`+auth("file")+`"}}, "credHelpers": {"a.example": ""}, "credsStore": "desktop"}`)
	k.Helper = func(_ context.Context, name, _ string) ([]byte, error) {
		t.Errorf("the helper %q was asked", name)
		return nil, errors.New("no")
	}
	if got, err := k.For(t.Context(), "a.example", "x"); err != nil || got.Username != "file" {
		t.Errorf("%+v, %v", got, err)
	}
	k.Files = k.Files[1:]
	if _, err := k.Keep(t.Context(), "a.example", Credential{Username: "new", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	if got, err := k.For(t.Context(), "a.example", "x"); err != nil || got.Username != "new" {
		t.Errorf("after login: %+v, %v", got, err)
	}
}
