package sandbox

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// terminal is the caller's side of the process's terminal; nil is none.
type terminal struct {
	master *os.File
	out    chan struct{} // closed when all output is copied
}

// newTerminal makes the caller's side of a descriptor that the init sent. It
// is non-blocking, so that it can be closed while it is read.
func newTerminal(fd int) *terminal {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil
	}
	return &terminal{master: os.NewFile(uintptr(fd), "ptmx")}
}

// begin copies c.Stdin to the terminal and the terminal to c.Stdout. The
// reading of Stdin cannot be stopped and ends with Stdin, or with the first
// byte that it reads after the process's end.
func (t *terminal) begin(c *Config) *terminal {
	if t == nil {
		return nil
	}
	t.out = make(chan struct{})
	if c.Stdin != nil {
		go io.Copy(t.master, c.Stdin)
	}
	out := c.Stdout
	if out == nil {
		out = io.Discard
	}
	go func() {
		defer close(t.out)
		// It ends with EIO when nobody has the other side open, and when out
		// takes no more. Then the terminal hangs up: a process that writes to it
		// would wait for ever, and gets SIGHUP and EIO instead, as one with a
		// pipe gets SIGPIPE.
		io.Copy(out, t.master)
		t.master.Close()
	}()
	return t
}

// finish waits for the rest of the output, all of whose writers are dead.
func (t *terminal) finish() {
	if t == nil {
		return
	}
	<-t.out
	t.master.Close()
}

func (t *terminal) close() {
	if t != nil {
		t.master.Close()
	}
}

// Resize tells the process's terminal its size. Without a terminal it does
// nothing.
func (p *Process) Resize(cols, rows uint16) error {
	if p.tty == nil {
		return nil
	}
	conn, err := p.tty.master.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = conn.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return errors.Join(err, ierr)
}
