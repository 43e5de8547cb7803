package layer

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

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

// piped is a gzip stream that another program decompresses, beside who reads it.
type piped struct {
	cmd *exec.Cmd
	in  *bufio.Reader
	out *os.File
	fed chan error // what reading in ended with, nil when there is no more or nobody wants it
	err error      // after the end
}

// gunzipOutside has a program decompress in. It returns nil where there is none, where it
// cannot be started, and for a stream too short to be worth it: of in nothing was taken then.
func gunzipOutside(in *bufio.Reader) *piped {
	name, err := exec.LookPath(gunzipProgram)
	if err != nil {
		return nil
	}
	if _, err := in.Peek(worthProgram); err != nil {
		return nil
	}
	stdin, feed, err := widePipe()
	if err != nil {
		return nil
	}
	defer stdin.Close()
	out, stdout, err := widePipe()
	if err != nil {
		feed.Close()
		return nil
	}
	defer stdout.Close()
	p := &piped{in: in, out: out, fed: make(chan error, 1)}
	p.cmd = &exec.Cmd{Path: name, Args: []string{gunzipProgram, "--decompress", "--stdout"}, Env: []string{}, Dir: "/", Stdin: stdin, Stdout: stdout}
	// In a group of its own it does not hear what a terminal tells ours.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: unprivileged, Gid: unprivileged}
	}
	if err := p.cmd.Start(); err != nil { // a user namespace need not have one
		feed.Close()
		out.Close()
		return nil
	}
	go p.feed(feed)
	return p
}

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
	p.err = <-p.fed
	if p.err == nil && wrong != nil {
		p.err = fmt.Errorf("gzip stream: %s cannot decompress it: %w", p.cmd.Path, wrong)
	}
	if p.err == nil {
		_, p.err = io.Copy(io.Discard, p.in)
	}
	if p.err == nil {
		p.err = io.EOF
	}
}

// Close ends the program, and returns when a Read of the stream that was begun for it has
// ended.
func (p *piped) Close() error {
	if p.err == nil {
		_ = p.cmd.Process.Kill() // it may have ended by itself
		p.end()
	}
	return nil
}
