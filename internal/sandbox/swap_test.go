package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Attacks 02 and 03: while a part of a cache is mounted, another step with the
// same cache keeps swapping that part for a link to the machine's files. Each
// step mounts the part many times, and what the link names is also in the
// cache, so that no round ends before all have been tried.
func TestAttack02And03APartThatIsSwappedForALinkLeadsNowhere(t *testing.T) {
	const steps, mounts = 25, 40
	dir, outside, cache := newRoot(t), t.TempDir(), t.TempDir()
	addFiles(t, outside, "canary=outside ")
	addFiles(t, cache, "sub/canary=part ", "link->"+outside, strings.TrimPrefix(outside, "/")+"/canary=inside ")
	sub, link := filepath.Join(cache, "sub"), filepath.Join(cache, "link")
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, sub, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	c := Config{Root: root, Args: []string{"sh", "-c", "cat /m*/canary"}}
	for i := range mounts {
		c.Mounts = append(c.Mounts, Mount{Target: fmt.Sprintf("/m%d", i), Path: cache, Sub: "sub"})
	}
	var all bytes.Buffer
	for range steps {
		one := c
		one.Stdout = &all
		if _, err := Run(t.Context(), &one); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	swaps := <-done
	count := func(s string) int { return strings.Count(all.String(), s) }
	if n := count("outside"); n > 0 {
		t.Errorf("%d mounts showed a file of the machine", n)
	}
	if parts, links := count("part"), count("inside"); parts+links != steps*mounts || parts == 0 || links == 0 {
		t.Errorf("%d mounts showed the part and %d what the link names in the cache, of %d; %d swaps", parts, links, steps*mounts, swaps)
	}
}
