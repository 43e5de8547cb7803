package layer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gunzipProgram, where it is installed, takes less than half of the time that the library
	// takes. It is Intel's, part of ISA-L, and containerd uses it too.
	gunzipProgram = "igzip"
	// worthProgram is how much there has to be of a stream that is given to it: to start it
	// takes a millisecond.
	worthProgram = 1 << 20
	// unprivileged is who it runs as where we are root: what it reads comes from a registry, and it is
	// written in C and assembly.
	unprivileged = 65534
)

// gunzipper is the program, or "" where there is none that works.
var gunzipper = sync.OnceValue(findGunzip)

// probe is probed in two members of gzip. Versions before 2.30 end after the first.
const (
	probed = "two members"
	probe  = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x2b\x29\xcf\x57\x00\x00\xa2\xc1\xac\x4d\x04\x00\x00\x00" +
		"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x4d\xcd\x4d\x4a\x2d\x2a\x06\x00\xff\xd2\xa0\x45\x07\x00\x00\x00"
)

// findGunzip looks for the program in PATH, and tries it.
func findGunzip() string {
	name, err := exec.LookPath(gunzipProgram)
	if err != nil {
		return ""
	}
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := startGunzip(ctx, name, bufio.NewReader(strings.NewReader(probe)))
	if err != nil {
		return ""
	}
	defer p.Close()
	if got, err := io.ReadAll(io.LimitReader(p, 2*int64(len(probed)))); err != nil || string(got) != probed {
		return ""
	}
	return name
}

// piped is a gzip stream that another program decompresses, beside who reads it.
type piped struct {
	ctx    context.Context
	stop   func() bool // of what ends the program with ctx
	cmd    *exec.Cmd
	in     *bufio.Reader
	out    *os.File
	fed    chan error // what reading in ended with, nil when there is no more or nobody wants it
	closed bool
	err    error // after the end
}

// startGunzip has the program called name decompress in. After an error, such as in a user
// namespace without that user, nothing was taken of in. The program ends with ctx, whatever it does.
func startGunzip(ctx context.Context, name string, in *bufio.Reader) (*piped, error) {
	stdin, feed, err := widePipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	out, stdout, err := widePipe()
	if err != nil {
		feed.Close()
		return nil, err
	}
	defer stdout.Close()
	p := &piped{ctx: ctx, in: in, out: out, fed: make(chan error, 1)}
	p.cmd = &exec.Cmd{Path: name, Args: []string{gunzipProgram, "--decompress", "--stdout"}, Env: []string{}, Dir: "/", Stdin: stdin, Stdout: stdout}
	// In a group of its own it does not hear what a terminal tells ours.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: unprivileged, Gid: unprivileged}
	}
	if err := p.cmd.Start(); err != nil {
		feed.Close()
		out.Close()
		return nil, err
	}
	p.stop = context.AfterFunc(ctx, p.kill)
	go p.feed(feed)
	return p, nil
}

func (p *piped) kill() { _ = p.cmd.Process.Kill() } // it may have ended by itself

// widePipe returns a pipe that holds so much that its ends seldom wait for each other.
func widePipe() (r, w *os.File, err error) {
	r, w, err = os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	if c, err := w.SyscallConn(); err == nil {
		// One that holds less does as well.
		_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, worthProgram) })
	}
	return r, w, nil
}

// feed gives the program the stream, until that ends or the program does.
func (p *piped) feed(w *os.File) {
	defer w.Close()
	buf := make([]byte, 256<<10)
	for {
		n, err := p.in.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil || err == io.EOF {
			p.fed <- nil
			return
		}
		if err != nil {
			p.fed <- err
			return
		}
	}
}

// Read implements io.Reader. Like the library it has read all of the stream when it
// returns io.EOF.
func (p *piped) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.out.Read(b)
	if err == io.EOF {
		p.end()
		err = p.err
	}
	return n, err
}

// end sets what the stream ends with: that it cannot be read says more than what the
// program says of what it got of it.
func (p *piped) end() {
	p.out.Close()
	wrong := p.cmd.Wait()
	p.stop()
	p.err = <-p.fed
	if p.err == nil && wrong != nil {
		p.err = p.told(wrong)
	}
	if p.err == nil {
		_, p.err = io.Copy(io.Discard, p.in)
	}
	if p.err == nil {
		p.err = io.EOF
	}
}

// told is what is said of a program that ended with wrong. A signal may have been for
// all of a service: then it is heard here in a moment.
func (p *piped) told(wrong error) error {
	const moment = time.Second
	if !p.closed && p.cmd.ProcessState.ExitCode() < 0 {
		select {
		case <-p.ctx.Done():
		case <-time.After(moment):
		}
	}
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	return fmt.Errorf("gzip stream: %s cannot decompress it: %w", p.cmd.Path, wrong)
}

// Close ends the program, and returns when a Read of the stream that was begun for it has
// ended.
func (p *piped) Close() error {
	if p.err == nil {
		p.closed = true
		p.kill()
		p.end()
	}
	return nil
}
