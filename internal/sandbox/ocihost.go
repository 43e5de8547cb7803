package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// runHost is the process above an OCI runtime, the first of its pid namespace.
// It mounts the root, has the runtime start the command, tells the caller that
// by closing the socket, waits for the command's end and tells that.
func runHost() {
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	// Nothing of this process is the runtime's.
	unix.CloseRange(initproc.FDSelf, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
	s, err := initproc.Receive()
	if err != nil {
		return // the caller is gone, and hears nothing
	}
	h := host{setup: s}
	pid, err := h.start()
	initproc.Tell(err, s)
	unix.Close(initproc.FDSocket)
	if err != nil {
		return
	}
	h.wait(pid)
}

type host struct {
	setup *initproc.Setup
	order ociOrder
	root  *initproc.Prepared
}

// start returns the pid of the command.
func (h *host) start() (int, error) {
	if err := h.readOrder(); err != nil {
		return 0, err
	}
	target, err := filepath.EvalSymlinks(h.order.Runtime)
	if err != nil {
		return 0, runtimeFailed(h.order.Runtime, unwrapPath(err).Error())
	}
	if h.root, err = initproc.Prepare(h.setup, h.order.Runtime, target); err != nil {
		return 0, err
	}
	defer h.root.Close()
	if err := h.root.Try(h.setup); err != nil {
		return 0, err
	}
	if err := h.writeBundle(); err != nil {
		return 0, &StartError{Op: "runtime", Path: h.order.Runtime, Err: err}
	}
	return h.run()
}

func (h *host) readOrder() error {
	sock := os.NewFile(initproc.FDSocket, "caller")
	runtime.SetFinalizer(sock, nil)
	var size [4]byte
	if _, err := io.ReadFull(sock, size[:]); err != nil {
		return err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(sock, b); err != nil {
		return err
	}
	return json.Unmarshal(b, &h.order)
}

func (h *host) file(name string) string { return filepath.Join(h.root.Scratch, name) }

func (h *host) writeBundle() error {
	spec, err := specOf(h.setup, h.root, h.order.UserNS)
	if err != nil {
		return err
	}
	spec.Linux.CgroupsPath = h.order.Cgroup
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(h.file("config.json"), b, 0o600)
}

// run has the runtime start the command, detached: so it is this process's
// child when the runtime has ended.
func (h *host) run() (int, error) {
	args := []string{h.order.Runtime, "--root", h.file("state"), "--log", h.file("log"), "--log-format", "json",
		"run", "--detach", "--bundle", h.root.Scratch, "--pid-file", h.file("pid"), h.order.ID}
	if err := os.Chdir(h.root.Scratch); err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(h.order.Runtime, args, &syscall.ProcAttr{
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR=" + h.root.Scratch},
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return 0, runtimeFailed(h.order.Runtime, err.Error())
	}
	var ws syscall.WaitStatus
	for {
		got, err := syscall.Wait4(pid, &ws, 0, nil)
		if got == pid {
			break
		}
		if err != nil && err != unix.EINTR {
			return 0, runtimeFailed(h.order.Runtime, err.Error())
		}
	}
	if !ws.Exited() || ws.ExitStatus() != 0 {
		return 0, runtimeFailed(h.order.Runtime, h.said())
	}
	b, err := os.ReadFile(h.file("pid"))
	if err != nil {
		return 0, runtimeFailed(h.order.Runtime, unwrapPath(err).Error())
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, runtimeFailed(h.order.Runtime, fmt.Sprintf("its file of the pid: %v", err))
	}
	return pid, nil
}

// said is the last error in the runtime's log.
func (h *host) said() string {
	b, _ := os.ReadFile(h.file("log"))
	last := ""
	for line := range strings.Lines(string(b)) {
		var l struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &l) == nil && (l.Level == "error" || l.Level == "fatal" || l.Level == "") && l.Msg != "" {
			last = l.Msg
		}
	}
	return strings.TrimSpace(last)
}

// wait waits for the command, and for whatever else ends meanwhile. When this
// process ends then, nothing of its pid namespace is left.
func (h *host) wait(pid int) {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) || err == nil && got != pid {
			continue
		}
		if err == nil {
			unix.Write(h.order.StatusFD, binary.BigEndian.AppendUint32(nil, uint32(ws)))
		}
		return
	}
}
