package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Attacks 02 and 03: while a part of a cache is mounted, another step with the
// same cache keeps swapping that part for a link to the machine's files.
func TestAttack02And03APartThatIsSwappedForALinkLeadsNowhere(t *testing.T) {
	dir, outside, cache := newRoot(t), t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "canary"), []byte("canary"), 0o644); err != nil {
		t.Fatal(err)
	}
	sub, link := filepath.Join(cache, "sub"), filepath.Join(cache, "link")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Microsecond):
				_ = unix.Renameat2(unix.AT_FDCWD, sub, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { close(stop); <-done }()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	mounted := 0
	for range 60 {
		var out bytes.Buffer
		_, err := Run(t.Context(), &Config{
			Root: root, Args: []string{"cat", "/m/canary"}, Stdout: &out,
			Mounts: []Mount{{Target: "/m", Path: cache, Sub: "sub"}},
		})
		if err == nil {
			mounted++
		} else if !strings.Contains(err.Error(), "source sub") {
			t.Fatal(err)
		}
		if out.Len() > 0 {
			t.Fatalf("the step read %q of the machine", &out)
		}
	}
	if mounted == 0 || mounted == 60 {
		t.Logf("the swap was never in time: %d of 60 were mounted", mounted)
	}
}
