package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// notBegun is the error of an init that ended, as waited says, before it was
// the command, and without saying why.
func notBegun(command string, err, waited error, oom *killings) error {
	err = fmt.Errorf("init: %w", err)
	if waited != nil {
		err = fmt.Errorf("%w (%w)", err, waited)
	}
	if oom.more() {
		err = ErrMemory
	}
	return &StartError{Op: "exec", Path: command, Err: err}
}

// killings counts the processes that the kernel kills for lack of memory in the
// narrowest place that has such a count: a control group, or the machine.
type killings struct {
	file   string
	before int64
	own    bool // all of them are of the process that is counted for
}

// newKillings counts from now on, of a process in group, or in this program's
// if that is nil or counts no memory.
func newKillings(group *Cgroup) *killings {
	if group != nil {
		if k := firstOf(killingsOf(group.dirs...)); k.file != "" {
			k.own = true
			return k
		}
	}
	return firstOf(append(callersKillings(cgroupRoot, "/proc/self/cgroup"), machineKillings))
}

// killings counts where the process will be: what a runtime starts is in a
// group of its own, which a count of version 1 does not see.
func (l *launch) killings() *killings {
	group := l.config.Cgroup
	if l.argv == "" || group != nil && group.v1 == nil {
		return newKillings(group)
	}
	return firstOf([]string{machineKillings})
}

// machineKillings has the count of the machine, control groups included.
const machineKillings = "/proc/vmstat"

func firstOf(files []string) *killings {
	for _, file := range files {
		if n, ok := oomKills(file); ok {
			return &killings{file: file, before: n}
		}
	}
	return &killings{}
}

// more reports whether one was killed.
func (k *killings) more() bool {
	n, _ := oomKills(k.file)
	return n > k.before
}

// judge notes in st, of a process that has ended, what lack of memory did.
func (k *killings) judge(st *Status) {
	switch {
	case st.Code == 128+int(syscall.SIGKILL):
		st.OOM = k.more()
	case st.Code != 0:
		st.Killed = k.own && k.more()
	}
}

// killingsOf are the files that count for groups: of version 2, in which those
// below are counted too, or of version 1, in which they are not.
func killingsOf(dirs ...string) []string {
	var out []string
	for _, dir := range dirs {
		out = append(out, filepath.Join(dir, "memory.events"), filepath.Join(dir, "memory.oom_control"))
	}
	return out
}

// callersKillings are the files that there may be of the group that this
// process is in, below root.
func callersKillings(root, file string) []string {
	text, err := os.ReadFile(file) // once: each step asks
	if err != nil {
		return nil
	}
	var dirs []string
	if own, ok := groupIn(string(text), ""); ok {
		dirs = append(dirs, filepath.Join(root, own))
	}
	if own, ok := groupIn(string(text), "memory"); ok {
		dirs = append(dirs, filepath.Join(root, "memory", own))
	}
	return killingsOf(dirs...)
}

// oomKills reads the line "oom_kill N", which all these files have in one form.
func oomKills(file string) (n int64, ok bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if count, is := strings.CutPrefix(line, "oom_kill "); is {
			n, err = strconv.ParseInt(strings.TrimSpace(count), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
