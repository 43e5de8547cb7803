package container

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox"
)

func TestExplainSaysWhyAndWhatToDo(t *testing.T) {
	tests := map[string]struct {
		err       sandbox.StartError
		msg, hint string
		code      int
	}{
		"not in PATH":   {sandbox.StartError{Op: "exec", Path: "app", Err: sandbox.ErrNotInPath}, `exec: "app": executable file not found in $PATH`, "no folder of PATH in img has it", 127},
		"at the root":   {sandbox.StartError{Op: "exec", Path: "app", Err: sandbox.ErrNotInPath, Found: "/app"}, "but /app exists", `CMD ["/app"]`, 127},
		"loader":        {sandbox.StartError{Op: "exec", Path: "/app", Err: unix.ENOENT, Interp: "/lib64/ld-linux-x86-64.so.2"}, "interpreter /lib64/ld-linux-x86-64.so.2", "CGO_ENABLED=0", 127},
		"script":        {sandbox.StartError{Op: "exec", Path: "/app", Err: unix.ENOENT, Interp: "/bin/bash"}, "interpreter /bin/bash", "#! line", 127},
		"no file":       {sandbox.StartError{Op: "exec", Path: "/app", Err: unix.ENOENT}, "no such file", "img has no such file", 127},
		"machine":       {sandbox.StartError{Op: "exec", Path: "/app", Err: unix.ENOEXEC, Machine: "aarch64"}, "Exec format error: it is a program for aarch64", "binfmt-support", 126},
		"format":        {sandbox.StartError{Op: "exec", Path: "/app", Err: unix.ENOEXEC}, "Exec format error", "#! line", 126},
		"not allowed":   {sandbox.StartError{Op: "exec", Path: "/app", Err: unix.EACCES}, "permission denied", "chmod +x", 126},
		"too long":      {sandbox.StartError{Op: "exec", Path: "/app", Err: unix.E2BIG}, "argument list too long", "into a file", 126},
		"user":          {sandbox.StartError{Op: "user", Path: "x", Err: errors.New("unable to find user x")}, "unable to find user x", "-u 1000:1000", 125},
		"user table":    {sandbox.StartError{Op: "table", Path: "/etc/passwd", Err: errors.New("not a regular file")}, "/etc/passwd: not a regular file", "users of img are looked up there", 125},
		"directory":     {sandbox.StartError{Op: "dir", Path: "/x", Err: unix.ENOTDIR}, "working directory /x: not a directory", "-w", 125},
		"mount":         {sandbox.StartError{Op: "mount", Path: "/x", Err: unix.ENOTDIR}, "mount /x: not a directory", "a folder on a folder", 125},
		"anything else": {sandbox.StartError{Op: "namespace", Err: unix.EPERM}, "namespace: operation not permitted", "", 125},
	}
	for name, tt := range tests {
		wrapped := fmt.Errorf("start: %w", &tt.err)
		err := Explain(wrapped, "img")
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Msg, tt.msg) || !strings.Contains(e.Way, tt.hint) {
			t.Errorf("%s: got %+v, want %q and %q", name, err, tt.msg, tt.hint)
		}
		if got := StartCode(err); got != tt.code {
			t.Errorf("%s: code %d, want %d", name, got, tt.code)
		}
	}
	other := errors.New("other")
	if err := Explain(other, "img"); err != other {
		t.Errorf("another error became %v", err)
	}
}

func TestStatusIsDockers(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	age := func(d time.Duration) string { return d.String() + " ago" }
	ago := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	for want, c := range map[string]Container{
		"Created":                         {},
		"Up 5s":                           {Running: true, Started: ago(5)},
		"Exited (3) 2s ago":               {Started: ago(5), Finished: ago(2), ExitCode: 3},
		"Exited (127) 1s ago":             {Finished: ago(1), ExitCode: 127, Error: "not found"},
		"Exited (137) whittle was killed": {Started: ago(5), Finished: ago(60), ExitCode: 1},
	} {
		if got := c.Status(now, age); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
