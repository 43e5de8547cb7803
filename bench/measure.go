package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one timed run.
type sample struct {
	took    time.Duration
	peak    int64 // bytes of memory that the builder's own programs had at once; 0 is not looked at
	read    int64 // bytes that came through read calls, of all processes involved
	written int64 // bytes that went through write calls
	pushed  int64 // bytes of the layers that were made for elsewhere; 0 is not looked at
}

// quiet runs a command of which only the failure is of interest.
func quiet(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	return failed(cmd, err, out)
}

// failed says how a command ended badly: with the last that it said, in one line,
// and then with all of it. Where a builder's error is followed by what may be done about it, as
// whittle's is, the line is the last that calls itself an error.
func failed(cmd *exec.Cmd, err error, said []byte) error {
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	line := lines[len(lines)-1]
	for _, l := range slices.Backward(lines) {
		if strings.Contains(strings.ToLower(l), "error: ") {
			line = l
			break
		}
	}
	return fmt.Errorf("%s: %w: %s\n%s\n%s", filepath.Base(cmd.Args[0]), err, line, strings.Join(cmd.Args, " "), said)
}

// settle writes back what earlier runs left dirty, so that no run pays for
// another, and has all processors at work: those of a virtual machine that has waited
// for a disk take some ten milliseconds until they are fast, which are a builder's if it is one of a tenth of
// a second.
func settle() {
	const awake = 100 * time.Millisecond
	unix.Sync()
	var all sync.WaitGroup
	for range runtime.NumCPU() {
		all.Go(func() {
			for began := time.Now(); time.Since(began) < awake; {
			}
		})
	}
	all.Wait()
}

// warm reads what is below a folder, if there is one, into the page cache, for all builders alike:
// some machines take it away from those who have not been there for a minute.
func warm(dir string) error {
	if dir == "" {
		return nil
	}
	const abreast = 16 // a disk is fast with many questions at once
	names := make(chan string, abreast)
	var readers sync.WaitGroup
	errs := make([]error, abreast)
	for i := range errs {
		readers.Go(func() {
			for name := range names {
				errs[i] = errors.Join(errs[i], read(name))
			}
		})
	}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names <- name
		}
		return err
	})
	close(names)
	readers.Wait()
	return errors.Join(append(errs, err)...)
}

func read(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}

// dropCache empties the page cache, where this user may. With it the kernel forgets
// the inodes that were deleted on the way to a run: ext4 without a journal passes over
// each of them whenever it makes a file, for a minute and more, as long as their
// blocks are cached (recently_deleted in fs/ext4/ialloc.c). 80 000 files then take
// 20 s and not 2.
func dropCache() (dropped bool) {
	settle()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) == nil
}

// unburdened is dropCache before a run. The programs that builder b has for cmd are
// read again.
func unburdened(b builder, cmd *exec.Cmd) error {
	if !dropCache() {
		return nil
	}
	for _, name := range append(b.programs(), cmd.Path) {
		if file, err := exec.LookPath(name); err == nil {
			if err := warm(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitEnd waits until a builder without a daemon has no process any more, but for those that ran
// before: what one does after its command's end, as whittle's keeper that unmounts layers, is not to
// be in the next one's time.
func awaitEnd(b builder, before map[int]int) error {
	if b == nil || b.daemon() != 0 {
		return nil
	}
	for until := time.Now().Add(lingering); ; time.Sleep(10 * time.Millisecond) {
		var left int
		for pid := range processes() {
			if _, was := before[pid]; !was && slices.Contains(b.programs(), program(pid)) {
				left = pid
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("%s: process %d is there %s after its command", b.name(), left, lingering)
		}
	}
}

// lingering is how long a process may stay after its command's end.
const lingering = 10 * time.Second

// program names the program that a process runs; "" is none that can be seen.
func program(pid int) string {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(filepath.Base(exe), " (deleted)")
}

// timed runs cmd to its end, as builder b, or as no builder if that is nil.
func timed(cmd *exec.Cmd, b builder) (sample, error) {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	others := processes()
	settle()
	var watch *watcher
	var before counts
	if b != nil {
		before = allCounts(b)
		watch = newWatcher(b)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	if b != nil {
		go watch.follow(cmd.Process.Pid, b)
	}
	err := cmd.Wait()
	s := sample{took: time.Since(began)}
	if b != nil {
		s.peak = watch.stop()
		after := allCounts(b)
		s.read, s.written = after.read-before.read, after.written-before.written
	}
	return s, errors.Join(failed(cmd, err, said.Bytes()), awaitEnd(b, others))
}

// counts are bytes.
type counts struct{ read, written int64 }

// allCounts are those of this process, which has those of a command once it
// has waited for it, and of a daemon with what is below it now. Little of this
// process's is its own: a watcher's look takes some hundred bytes.
func allCounts(b builder) counts {
	pids := []int{os.Getpid()}
	if d := b.daemon(); d != 0 {
		pids = append(append(pids, d), below(d, processes())...)
	}
	var c counts
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
		if err != nil {
			continue // it has ended
		}
		c.read += field(string(text), "rchar:")
		c.written += field(string(text), "wchar:")
	}
	return c
}

// field reads the number after a name in a text of lines "name: number unit".
func field(text, name string) int64 {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// processes maps each process of the machine to its parent.
func processes() map[int]int {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		// The name of the program may have blanks and parentheses in it.
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(f) > 1 {
			parents[pid], _ = strconv.Atoi(f[1])
		}
	}
	return parents
}

// below are the descendants of a process.
func below(pid int, parents map[int]int) []int {
	var list []int
	for p := range parents {
		for q := parents[p]; q > 1; q = parents[q] {
			if q == pid {
				list = append(list, p)
				break
			}
		}
	}
	return list
}

// watcher follows the memory of a builder's own programs, among the command
// and the daemon and what is below them; what a step runs is not counted.
type watcher struct {
	others []int // the daemon and what is below it
	done   chan struct{}
	peak   chan int64
}

// relist is how long the list of all processes serves, which takes some
// milliseconds to make.
const relist = 100 * time.Millisecond

// pause is how long a watcher leaves a command alone that has run for this time:
// a look takes a fifth of a millisecond, and shall cost nothing that counts, in a
// command of a tenth of a second neither. What a process had between two looks is
// not lost: the kernel keeps the most.
func pause(ran time.Duration) time.Duration {
	return max(2*time.Millisecond, min(ran/10, 20*time.Millisecond), min(ran/100, 200*time.Millisecond))
}

// newWatcher lists the daemon's processes, and has the kernel forget what was the
// most that they had (clear_refs in proc_pid_clear_refs(5)), which needs root.
func newWatcher(b builder) *watcher {
	w := &watcher{done: make(chan struct{}), peak: make(chan int64, 1)}
	if d := b.daemon(); d != 0 {
		w.others = append(below(d, processes()), d)
	}
	for _, pid := range w.others {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) // or it has ended
	}
	return w
}

// follow looks until stop.
func (w *watcher) follow(pid int, b builder) {
	began := time.Now()
	var peak int64
	listed, others := began, w.others
	for {
		ran := time.Since(began)
		if time.Since(listed) > max(relist, ran/20) {
			parents := processes()
			others = append(append(below(pid, parents), below(b.daemon(), parents)...), b.daemon())
			listed = time.Now()
		}
		peak = max(peak, memory(append(others, pid), b.programs()))
		select {
		case <-w.done:
			w.peak <- peak
			return
		case <-time.After(pause(ran)):
		}
	}
}

func (w *watcher) stop() int64 {
	close(w.done)
	return <-w.peak
}

// memory sums the most that those of the processes have had in memory that run one
// of the programs. A process that is about to exec has its parent's memory, and counts once
// with that. So do the pages of files of those that run the same program: they are the program's own,
// and in memory once.
func memory(pids []int, programs []string) (bytes int64) {
	var counted []int
	files := map[string]int64{} // program → bytes counted of its files
	for _, pid := range pids {
		if pid == 0 {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		name := program(pid)
		if !slices.Contains(programs, name) {
			continue
		}
		if slices.ContainsFunc(counted, func(other int) bool { return shareMemory(pid, other) }) {
			continue
		}
		file := field(string(text), "RssFile:") << 10
		bytes += field(string(text), "VmHWM:")<<10 - min(file, files[name])
		files[name] = max(file, files[name])
		counted = append(counted, pid)
	}
	return bytes
}

// shareMemory says whether two processes have the same memory, as after vfork (kcmp(2)).
func shareMemory(a, b int) bool {
	const kcmpVM = 1
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpVM, 0, 0, 0)
	return errno == 0 && r == 0
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	mid := len(d) / 2
	if len(d)%2 == 1 {
		return d[mid]
	}
	return (d[mid-1] + d[mid]) / 2
}
