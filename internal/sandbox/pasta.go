package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// NetworkError is why a step cannot have a network of its own that leads out.
type NetworkError struct{ Err error }

func (e *NetworkError) Error() string { return fmt.Sprintf("network private: pasta: %v", e.Err) }
func (e *NetworkError) Unwrap() error { return e.Err }

// Hint returns the way out.
func (e *NetworkError) Hint() string {
	if unix.Access(tunDevice, unix.R_OK|unix.W_OK) != nil {
		return "this user must be able to open /dev/net/tun: as root, modprobe tun && chmod 666 /dev/net/tun; or build with --network host, or none"
	}
	return "pasta carries the traffic of such a network: as root, apt-get install passt (Fedora: dnf install passt); or build with --network host, or none"
}

// tunDevice is what pasta makes a network's interface with.
const tunDevice = "/dev/net/tun"

// CheckPasta finds the program that NetworkPasta needs.
func CheckPasta() error {
	_, err := exec.LookPath("pasta")
	var looked *exec.Error
	if errors.As(err, &looked) {
		return &NetworkError{looked.Err}
	}
	return err
}

// pastaDNS is where a step asks for names; pasta asks the machine's servers,
// which may listen on its loopback only.
const pastaDNS = "169.254.1.1"

// pastaResolvConf is the host's file with that server.
func pastaResolvConf(host string) string {
	out := "nameserver " + pastaDNS + "\n"
	for line := range strings.Lines(host) {
		if !strings.HasPrefix(strings.TrimSpace(line), "nameserver") {
			out += line
		}
	}
	return out
}

// pastaWait is how long pasta may take to lead out.
const pastaWait = 10 * time.Second

// pasta is the program that carries the traffic of one network namespace.
type pasta struct {
	cmd  *exec.Cmd
	said bytes.Buffer
	done chan struct{}
}

// startPasta leads the network namespace of the process pid out: to what the
// machine reaches, but not to what listens on it, and nothing leads in. It ends
// with stop, or when this process ends.
func startPasta(ctx context.Context, pid int) (*pasta, error) {
	// By descriptor: pasta gives up the rights that the path would take.
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, &NetworkError{unwrapPath(err)}
	}
	defer ns.Close()
	p := &pasta{done: make(chan struct{})}
	gate, err := p.start(ns)
	if err != nil {
		return nil, &NetworkError{unwrapPath(err)}
	}
	err = keep(p.cmd.Process.Pid, unix.SIGKILL, nil)
	if err == nil {
		_, err = gate.Write([]byte{0})
	}
	gate.Close()
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	if err == nil {
		err = p.ready(ctx, pid)
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// Descriptors of a pasta that waits.
const (
	pastaGate = initproc.FDSelf + 1 + iota
	pastaNS
)

// start starts a process that becomes pasta when a byte comes out of the gate,
// and ends when the gate is closed without. Nothing but the keeper ends a pasta
// whose caller was killed, so that it must know it first.
func (p *pasta) start(ns *os.File) (gate *os.File, err error) {
	program, err := exec.LookPath("pasta")
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil {
		return nil, err
	}
	exe, err := self()
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p.cmd = exec.Command("/proc/self/fd/3")
	p.cmd.Args = []string{argvPasta, program, "--config-net", "--quiet", "--foreground", "--runas", "0", "--no-map-gw",
		"-t", "none", "-u", "none", "-T", "none", "-U", "none", "--dns-forward", pastaDNS, "--netns", fmt.Sprintf("/proc/self/fd/%d", pastaNS)}
	p.cmd.ExtraFiles = []*os.File{exe, r, ns}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.Dir = "/"
	if err := p.cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// becomePasta is the process that waits. It returns its exit code.
func becomePasta(args []string) int {
	unix.CloseOnExec(initproc.FDSelf)
	unix.CloseOnExec(pastaGate)
	var b [1]byte
	if n, err := os.NewFile(pastaGate, "gate").Read(b[:]); n != 1 || err != nil {
		return 1
	}
	fmt.Fprintln(os.Stderr, unix.Exec(args[0], append([]string{"pasta"}, args[1:]...), os.Environ()))
	return 1
}

// ready waits for a way out.
func (p *pasta) ready(ctx context.Context, pid int) error {
	for until := time.Now().Add(pastaWait); time.Now().Before(until); {
		for _, file := range []string{"route", "ipv6_route"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
			if err == nil && defaultRoute(string(b)) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.done:
			return &NetworkError{fmt.Errorf("it ended: %s", bytes.ReplaceAll(bytes.TrimSpace(p.said.Bytes()), []byte("\n"), []byte("; ")))}
		case <-time.After(5 * time.Millisecond):
		}
	}
	return &NetworkError{errors.New("no way out in time")}
}

// defaultRoute says whether a table of /proc has a route to everywhere by some
// interface but the loopback.
func defaultRoute(table string) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		switch len(f) {
		case 11: // of version 4: destination and mask are the second and eighth
			if f[1] == "00000000" && f[7] == "00000000" {
				return true
			}
		case 10: // of version 6: destination and the length of its prefix
			if strings.Trim(f[0]+f[1], "0") == "" && f[9] != "lo" {
				return true
			}
		}
	}
	return false
}

func (p *pasta) stop() {
	if p == nil {
		return
	}
	p.cmd.Process.Kill()
	<-p.done
}
