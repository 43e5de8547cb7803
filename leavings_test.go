package whittle_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// leavings are what a process may leave behind: its mounts, descriptors,
// descendants, control groups and temporary files.
func (h *workshop) leavings() (list []string) {
	h.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		h.t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		f := strings.Fields(l)
		if !strings.Contains(l, h.root) && !strings.Contains(l, " erofs ") {
			continue // other tests mount too
		}
		list = append(list, "mount "+f[4]+" "+strings.Join(f[8:], " "))
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil { // the listing's own is closed
			list = append(list, "descriptor "+strings.TrimRight(to, "[]0123456789"))
		}
	}
	for _, dir := range []string{filepath.Join(h.root, "tmp"), filepath.Join(h.root, "locks/keys"), os.Getenv("TMPDIR")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			h.t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, "file "+filepath.Join(dir, e.Name()))
		}
	}
	list = append(list, descendants(os.Getpid())...)
	own := fmt.Sprintf("whittle-%d-", os.Getpid())
	_ = filepath.WalkDir("/sys/fs/cgroup", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), own) {
			list = append(list, "group "+name)
		}
		return nil // what goes away meanwhile is another's
	})
	slices.Sort(list)
	return list
}

// descendants are the processes that pid started, and those that they did.
func descendants(pid int) (list []string) {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		id, aerr := strconv.Atoi(e.Name())
		if err != nil || aerr != nil { // it has ended, or is no process
			continue
		}
		at := strings.LastIndex(string(stat), ") ")
		if f := strings.Fields(string(stat)[at+1:]); len(f) > 1 {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], id)
		}
	}
	for todo := children[pid]; len(todo) > 0; todo = todo[1:] {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", todo[0]))
		list = append(list, fmt.Sprintf("process %d %s", todo[0], strings.TrimSpace(string(name))))
		todo = append(todo, children[todo[0]]...)
	}
	return list
}

// alone runs the nth of many builds as a program would that makes no other: an
// open Whittle keeps what it has seen of layers until it is closed.
func (h *workshop) alone(n int) (err error) {
	w, err := whittle.Open(h.opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	other := *h
	other.Whittle = w
	return other.oneOfMany(n)
}

// oneOfMany is the nth of many builds, of ten kinds.
func (h *workshop) oneOfMany(n int) error {
	fresh := func(r *whittle.Request) {
		r.NoCache = true
		r.Secrets = []whittle.Secret{{ID: "s", Value: []byte("canary")}}
	}
	switch n % 10 {
	case 0: // all of what a step can have mounted
		_, err := h.build("FROM base AS other\nFROM base\nCOPY a /a\nRUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c --mount=type=bind,target=/b "+
			"--mount=type=bind,from=other,target=/o,rw --mount=type=secret,id=s cat /run/secrets/s /b/a >/c/x; echo x >/o/x\n", fresh)
		return err
	case 1:
		_, err := h.build("FROM base\nRUN exit 3\n", fresh)
		return expected(err, "exit code: 3")
	case 2:
		_, err := h.build("FROM base\nRUN [\"/no/such\"]\n", fresh)
		return expected(err, "no such file")
	case 3: // stopped while it runs, with a child
		ctx, cancel := context.WithTimeout(h.t.Context(), 15*time.Millisecond)
		defer cancel()
		dir := folder(h.t, map[string]string{"Dockerfile": "FROM base\nRUN sleep 60 & sleep 60\n"})
		_, err := h.Build(ctx, whittle.Request{Context: dir, NoCache: true})
		return expected(err, "deadline")
	case 4: // in a control group, where one can be made
		_, err := h.build("FROM base\nRUN true\n", func(r *whittle.Request) {
			fresh(r)
			r.Resources = h.limits()
		})
		return err
	case 5: // side by side
		_, err := h.build("FROM base AS a\nRUN true\nFROM base AS b\nRUN true\nFROM base\nCOPY --from=a /bin/sh /a\nCOPY --from=b /bin/sh /b\n", fresh)
		return err
	}
	_, err := h.build("FROM base\nCOPY a /a\nRUN echo "+strconv.Itoa(n%3)+"\n", nil) // mostly cached
	return err
}

// limits are some where this user may make a control group.
func (h *workshop) limits() sandbox.Resources {
	r := sandbox.Resources{Memory: 1 << 29}
	g, err := sandbox.NewCgroup("", r)
	if err != nil {
		return sandbox.Resources{}
	}
	if err := g.Close(); err != nil {
		h.t.Error(err)
	}
	return r
}

// without is list less what is in other, each as often as it is there.
func without(list, other []string) (rest []string) {
	known := map[string]int{}
	for _, o := range other {
		known[o]++
	}
	for _, l := range list {
		if known[l]--; known[l] < 0 {
			rest = append(rest, l)
		}
	}
	return rest
}

func expected(err error, text string) error {
	if err != nil && strings.Contains(err.Error(), text) {
		return nil
	}
	return fmt.Errorf("%w: want an error with %q", err, text)
}

func TestAThousandBuildsLeaveNothing(t *testing.T) {
	everyProvider(t, func(t *testing.T, h *workshop) {
		n := 500 // with each of two providers
		if testing.Short() {
			n = 50
		}
		h.base("base")
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TMPDIR", t.TempDir())
		for i := range 10 { // what there is one of, for as long as the process lives
			if err := h.alone(i); err != nil {
				t.Fatal(err)
			}
		}
		before := h.leavings()
		for i := range n {
			if err := h.alone(i); err != nil {
				t.Fatalf("build %d: %v", i, err)
			}
		}
		after := h.leavings()
		for range 50 { // the kernel ends processes in its own time
			if len(without(after, before)) == 0 {
				return
			}
			time.Sleep(20 * time.Millisecond)
			after = h.leavings()
		}
		t.Errorf("%d builds left:\n%s", n, strings.Join(without(after, before), "\n"))
	})
}
