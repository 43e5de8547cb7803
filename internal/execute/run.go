package execute

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
	"github.com/whittle-build/whittle/internal/trace"
)

// ExitError is a RUN whose process ended badly, or did not start.
type ExitError struct {
	At     *dockerfile.Error // where in the Dockerfile; its Msg and Hint say what happened
	Args   []string
	Status sandbox.Status
}

func (e *ExitError) Error() string { return e.At.Error() }

// Unwrap gives the place in the Dockerfile.
func (e *ExitError) Unwrap() error { return e.At }

// ExitCode is that of the process, as a shell would see it.
func (e *ExitError) ExitCode() int { return e.Status.Code }

// Outcome says how it ended in a few words.
func (e *ExitError) Outcome() string {
	switch st := e.Status; {
	case st.OOM:
		return "killed for lack of memory (OOM)"
	case st.Signal != 0:
		return fmt.Sprintf("signal %d (%s)", int(st.Signal), st.Signal)
	}
	// What a shell says of a command that a signal ended (sh(1), 2.8.2).
	if n := e.Status.Code - 128; n > 0 && n <= int(syscall.SIGSYS) {
		return fmt.Sprintf("exit code %d, as of signal %d (%s)", e.Status.Code, n, syscall.Signal(n))
	}
	return fmt.Sprintf("exit code %d", e.Status.Code)
}

// exitError says where a process stands in the Dockerfile and how it ended.
func (l *Local) exitError(job solve.Job, st sandbox.Status) error {
	r := job.Step.Run
	what := fmt.Sprintf("exit code: %d", st.Code)
	if st.Signal != 0 {
		what = fmt.Sprintf("signal: %s", st.Signal)
	}
	if st.OOM {
		what += " (out of memory: the kernel killed a process of it)"
	}
	msg := fmt.Sprintf("stage %s: process %q did not complete successfully: %s", job.Step.Stage.Display, strings.Join(r.Args, " "), what)
	hint := exitHint(st)
	if hint == "" {
		hint = l.fullHint()
	}
	if why := sandbox.OneID(); hint == "" && why != nil {
		hint = fmt.Sprintf("if it needs another user (chown, su, apt): there is a single id here: %v; %s", why, why.Way)
	}
	return &ExitError{At: l.File.Mistake(job.Step.Line.Pos, msg, hint), Args: r.Args, Status: st}
}

// nearlyFull is so little room that a process may well have failed for it.
const nearlyFull = 1 << 20

// fullHint says so when the disk that the step writes to is full: programs
// often do not.
func (l *Local) fullHint() string {
	var full *store.FullError
	if !errors.As(l.Store.Explain(syscall.ENOSPC), &full) || full.Free >= nearlyFull && full.Files != 0 {
		return ""
	}
	return full.Error() + "; " + full.Hint()
}

// exitHint is for ends whose cause is known by their code (sh(1), 2.8.2).
func exitHint(st sandbox.Status) string {
	switch {
	case st.OOM:
		return "the kernel killed a process for lack of memory; give the build more, or run fewer steps at once (--jobs)"
	case st.Killed:
		return "meanwhile the kernel killed a process of this step for lack of memory, which may be why: give it more (--memory), or have it do less at once"
	case st.Code == 127:
		return "127 is a command that was not found: is it installed in this stage, or in one that this stage does not build on?"
	case st.Code == 126:
		return "126 is a command that cannot be executed: is its x bit set, and is it for this machine?"
	}
	return ""
}

// startError is for a process that could not be started at all.
func (l *Local) startError(job solve.Job, err error) error {
	var start *sandbox.StartError
	if !errors.As(err, &start) {
		return err
	}
	return l.File.Mistake(job.Step.Line.Pos, fmt.Sprintf("stage %s: %v", job.Step.Stage.Display, err), startHint(start))
}

// idsHint is the way out for who lacks an id.
func idsHint() string {
	if why := sandbox.OneID(); why != nil {
		return fmt.Sprintf("there is a single id here: %v; %s", why, why.Way)
	}
	return layer.IDsHint
}

// FilesHint is the way out of too many open files.
const FilesHint = "this process may not open more files: raise the limit, ulimit -n"

// startHint is the way out for a process that could not be started.
func startHint(start *sandbox.StartError) (hint string) {
	switch {
	case errors.Is(start.Err, syscall.EMFILE):
		hint = FilesHint
	case start.Op == "isolation":
		hint = "steps run in a chroot here, and cannot have this: leave it out, or build where namespaces are allowed (docs/where-it-runs.md)"
	case start.Op == "exec" && start.Found != "":
		hint = fmt.Sprintf("%s exists: write the whole path, RUN [%q], or add its folder to PATH with ENV", start.Found, start.Found)
	case start.Op == "exec" && errors.Is(start.Err, sandbox.ErrNotInPath):
		hint = "no folder of PATH has it: is it spelled right, and installed in this stage or in one that it builds on? Otherwise write its whole path"
	case start.Op == "exec" && errors.Is(start.Err, syscall.E2BIG):
		hint = "one argument has at most 128 kB, and all of them with the environment 2 MB: COPY a script and run that"
	case errors.Is(start.Err, sandbox.ErrMemory):
		hint = "it was ended before it began: a step needs some megabytes of memory to start, of --memory and of the machine"
	case start.Op == "exec" && errors.Is(start.Err, syscall.ENOEXEC) && start.Machine != "":
		hint = fmt.Sprintf("it is a program for %s: build it for this machine (for Go: GOARCH). Programs of another machine are emulated in stages that are for it: --platform, or FROM --platform=", start.Machine)
	case start.Op == "exec" && errors.Is(start.Err, syscall.ENOEXEC):
		hint = "it is no program that this machine runs: a script needs a #! line, and a program has to be built for this machine"
	case start.Op == "exec" && errors.Is(start.Err, syscall.EACCES):
		hint = "is its x bit set, and those of the folders for this user? COPY --chmod=755 sets it"
	case start.Op == "exec" && start.Path == "/bin/sh" && start.Interp == "" && (errors.Is(start.Err, syscall.ENOENT) || errors.Is(start.Err, syscall.ENOTDIR)):
		hint = "this file system has no shell: write the exec form, RUN [\"/program\", \"argument\"], or build on an image with a shell"
	case start.Interp != "":
		hint = "its interpreter is not in this stage; a static program needs none (for Go: CGO_ENABLED=0)"
	case start.Op == "ulimit" && errors.Is(start.Err, syscall.EPERM):
		hint = "raising a hard limit takes CAP_SYS_RESOURCE on the host, which users, most containers and emulated steps lack, and nofile goes no further than /proc/sys/fs/nr_open: give a lower one, or raise that of the shell that calls"
	case start.Op == "runtime":
		hint = "so the runtime says; steps run without one when --isolation is left out"
	case start.Op == "id":
		hint = idsHint()
	case start.Op == "exec" && errors.Is(start.Err, syscall.ENOENT):
		hint = "is the path right, and is the program installed in this stage or in one that it builds on?"
	case start.Op == "user":
		hint = "create the user in an earlier RUN, or use a number"
	case start.Op == "table":
		hint = badTable(start.Path)
	case start.Op == "mount" && strings.Contains(start.Err.Error(), "cannot be mounted on"):
		hint = "choose another target="
	case start.Op == "mount" && strings.Contains(start.Err.Error(), "in one place only"):
		hint = "mount it once in this RUN, and make a link to it; different folders of a cache, source=, can be in different places"
	case start.Op == "mount" && inTheWay(start.Err):
		hint = "a RUN has file systems of its own at /proc, /sys and /dev, and files in /etc: build on an image where this path is a folder and no link"
	case start.Op == "mount" && (start.Path == "/dev" || filepath.Dir(start.Path) == "/dev"):
		hint = "a RUN has devices of its own in /dev: mount elsewhere, or at a new name in it"
	case start.Op == "mount" && errors.Is(start.Err, syscall.EROFS):
		hint = "its place lies in a read-only mount and is not there: make the folder or file in what is mounted there, or mount that with rw"
	case start.Op == "mount" && strings.HasPrefix(start.Err.Error(), "source "):
		hint = "source= is a path in what is mounted, and links in it lead nowhere else: make it in an earlier step"
	case start.Op == "mount" && strings.HasPrefix(start.Path, "/proc"):
		hint = "mount it elsewhere"
	}
	return hint
}

// inTheWay says whether err is about a link or file where a folder is needed.
func inTheWay(err error) bool {
	return errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) || strings.Contains(err.Error(), "symbolic link")
}

// mountError is for a root that cannot be made.
func (l *Local) mountError(job solve.Job, err error) error {
	var deep *rootfs.DepthError
	var owner *layer.OwnerError
	switch {
	case errors.As(err, &deep):
		return l.File.Mistake(job.Step.Line.Pos, fmt.Sprintf("stage %s: %v", job.Step.Stage.Display, deep), deep.Hint())
	case errors.As(err, &owner):
		return l.File.Mistake(job.Step.Line.Pos, fmt.Sprintf("stage %s: a layer below: %v", job.Step.Stage.Display, owner), owner.Hint())
	}
	return err
}

// run runs a process in the merged root; what it changed is the layer, as it
// lies, without being copied, or with metacopy a tar of it. What no tar can hold
// a tree can: then the step, which only changes modes, runs once more.
func (l *Local) run(ctx context.Context, job solve.Job) (solve.Made, error) {
	metacopy := l.metacopy(job)
	made, err := l.runOnce(ctx, job, metacopy)
	if metacopy && errors.Is(err, layer.ErrBound) {
		return l.runOnce(ctx, job, false)
	}
	return made, err
}

func (l *Local) runOnce(ctx context.Context, job solve.Job, metacopy bool) (made solve.Made, err error) {
	span := trace.Begin(ctx, "make its root")
	p, err := l.Place(ctx, job)
	span.End()
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if p.up != nil {
		p.up.Metacopy = metacopy
	}
	span = trace.Begin(ctx, "process")
	err = p.step(ctx)
	span.End()
	if err != nil {
		return made, err
	}
	span = trace.Begin(ctx, "take what it changed")
	defer span.End()
	if p.planted != nil {
		return l.harvest(ctx, p)
	}
	return l.take(ctx, p)
}

// take makes a layer of what the step in p has changed.
func (l *Local) take(ctx context.Context, p *Place) (made solve.Made, err error) {
	below, err := l.Roots.View(ctx, p.Job.Below)
	if err != nil {
		return made, err
	}
	if err := layer.KeepOwners(p.up.Dir, below); err != nil {
		return made, err
	}
	steered, err := leaveOut(p.up, below)
	if err != nil {
		return made, err
	}
	if steered {
		return l.commitSteered(ctx, p, below)
	}
	for _, rest := range []string{p.up.Work, filepath.Join(p.tmp.Path, scriptName)} {
		if err := os.RemoveAll(rest); err != nil {
			return made, err
		}
	}
	return l.commitTree(p.Job, p.tmp)
}

// newUpper makes the folders in dir that take what a step writes.
func newUpper(dir string) (*rootfs.Upper, error) {
	up := &rootfs.Upper{Dir: filepath.Join(dir, layer.TreeName), Work: filepath.Join(dir, "work"), Volatile: true}
	for _, d := range []string{up.Dir, up.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	return up, nil
}

// scriptName is where a here-document that is a program lies, beside the
// layer, while it runs.
const scriptName = "script"

// scripts are the mounts of a step's here-document.
func scripts(r *plan.Run, tmp string) ([]sandbox.Mount, error) {
	if r.Script == nil {
		return nil, nil
	}
	path := filepath.Join(tmp, scriptName)
	if err := os.WriteFile(path, []byte(r.Script.Content), 0o755); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o755); err != nil { // whatever the umask is: the step's user may be anybody
		return nil, err
	}
	return []sandbox.Mount{{Target: r.Script.Path, Path: path, ReadOnly: true}}, nil
}

// cgroup is a control group of the step's own, if something asks for one.
func (l *Local) cgroup(r *plan.Run) (*sandbox.Cgroup, error) {
	if r.Limits.CgroupParent == "" && l.Resources == (sandbox.Resources{}) {
		return nil, nil
	}
	return sandbox.NewCgroup(r.Limits.CgroupParent, l.Resources)
}

// rlimits are those that the build sets; their names have been checked.
func rlimits(r *plan.Run) []sandbox.Rlimit {
	var out []sandbox.Rlimit
	for _, u := range r.Limits.Ulimits {
		if l, ok := sandbox.NewRlimit(u.Name, u.Soft, u.Hard); ok {
			out = append(out, l)
		}
	}
	return out
}

// environment is what the process gets: of a name that is there twice the last
// value counts, and what is hidden from the key counts most: proxies, and then
// secrets.
func environment(r *plan.Run, secrets []string) []string {
	var out []string
	at := map[string]int{}
	for _, kv := range slices.Concat(r.Env, r.HiddenEnv, secrets) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	return out
}

// network maps the words of a Dockerfile to the sandbox's: without a daemon
// there is no bridge, so a step's default network is the host's.
func network(mode string) string {
	switch mode {
	case "none":
		return sandbox.NetworkNone
	case "private":
		return sandbox.NetworkPasta
	}
	return sandbox.NetworkHost
}

// hosts turns "name:ip" into lines of /etc/hosts.
func hosts(in []string) []string {
	var out []string
	for _, h := range in {
		name, ip, _ := strings.Cut(h, ":")
		out = append(out, ip+"\t"+name)
	}
	return out
}

// stream hands what a step prints to the progress display, whole.
type stream struct {
	l      *Local
	vertex int
	n      int // 1 or 2
}

func (s stream) Write(p []byte) (int, error) {
	s.l.Sink.Emit(progress.Event{Kind: progress.Log, Time: s.l.Now(), Vertex: s.vertex, Stream: s.n, Data: p})
	return len(p), nil
}
