package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// A monitor answers on a socket of packets. One connection is one request;
// descriptors travel with it. The socket lies in a folder that only the
// store's owner can enter, so whoever can ask could do it all himself.
type request struct {
	Op     string `json:"op"` // "signal", "stop", "exec", "put"; after exec "resize"
	Signal int    `json:"signal,omitempty"`
	Spec   *Spec  `json:"spec,omitempty"`   // exec: args, env, dir, user, tty
	Detach bool   `json:"detach,omitempty"` // exec: do not wait for its end
	Dest   string `json:"dest,omitempty"`   // put
	Keep   bool   `json:"keep,omitempty"`   // stop: it is started again
	Size   Size   `json:"size,omitzero"`
}

type reply struct {
	Error  string          `json:"error,omitempty"`
	Way    string          `json:"way,omitempty"`
	Ended  bool            `json:"ended,omitempty"` // it is because the container ended
	Code   int             `json:"code,omitempty"`
	Status *sandbox.Status `json:"status,omitempty"`
}

func replyOf(err error) reply {
	if err == nil {
		return reply{}
	}
	r := reply{Error: err.Error(), Code: StartCode(err), Ended: errors.Is(err, errEnded)}
	var e *Error
	if errors.As(err, &e) {
		r.Way = e.Way
	}
	return r
}

// err is the failure that a reply tells of.
func (r *reply) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Ended:
		return errEnded
	}
	return &Error{Msg: r.Error, Way: r.Way}
}

const maxPacket = 128 << 10

// socketPath reaches a socket in dir however long dir is: the address of a
// Unix socket has 108 bytes (unix(7)).
func socketPath(dir *os.File) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), socketName)
}

// control is the listening side.
type control struct {
	m      *monitor
	dir    *os.File
	l      *net.UnixListener
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (m *monitor) control() (*control, error) {
	if err := os.Remove(filepath.Join(m.dir, socketName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	dir, err := os.Open(m.dir)
	if err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socketPath(dir), Net: "unixpacket"})
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	c := &control{m: m, dir: dir, l: l}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.wg.Go(func() { c.accept(ctx) })
	return c, nil
}

// close ends all that was asked for and is still going on.
func (c *control) close() error {
	err := c.l.Close()
	c.cancel()
	c.wg.Wait()
	return errors.Join(err, c.dir.Close())
}

func (c *control) accept(ctx context.Context) {
	for {
		conn, err := c.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, say: it passes
			time.Sleep(lockPoll)
			continue
		}
		c.wg.Go(func() { c.serve(ctx, conn) })
	}
}

func (c *control) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	// An asker that sends nothing must not keep the container from its end.
	stop := context.AfterFunc(ctx, func() { conn.CloseRead() })
	defer stop()
	req, files, err := receive(conn)
	defer closeAll(files)
	if err != nil {
		return
	}
	_ = send(conn, c.answer(ctx, conn, req, files)) // fails when the asker is gone
}

// answer does what a request asks for.
func (c *control) answer(ctx context.Context, conn *net.UnixConn, req *request, files []*os.File) reply {
	switch req.Op {
	case "signal":
		return replyOf(unlessEnded(c.m.proc.Signal(unix.Signal(req.Signal))))
	case "stop":
		if req.Keep {
			c.m.keep.Store(true)
		}
		return replyOf(unlessEnded(c.m.end(unix.Signal(req.Signal))))
	case "exec":
		return c.exec(ctx, conn, req, files)
	case "put":
		if len(files) != 1 {
			return reply{Error: "put: wants one stream"}
		}
		return replyOf(c.put(ctx, req.Dest, files[0]))
	}
	return reply{Error: fmt.Sprintf("%q: unknown request", req.Op)}
}

// unlessEnded drops the error of a signal to a process that has just ended.
func unlessEnded(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// put unpacks a stream, until the container ends.
func (c *control) put(ctx context.Context, dest string, in *os.File) error {
	fd, err := unix.FcntlInt(in.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // a read of it can be ended
		return errors.Join(err, unix.Close(fd))
	}
	r := os.NewFile(uintptr(fd), "archive")
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	err = put(fsroot.FromFd(c.m.root), c.m.c, dest, r)
	if ctx.Err() != nil {
		return errEnded
	}
	return err
}

// exec starts another process in the container and waits for its end, or for
// the asker to go away.
func (c *control) exec(ctx context.Context, conn *net.UnixConn, req *request, files []*os.File) reply {
	if len(files) != 3 || req.Spec == nil {
		return reply{Error: "exec: the streams did not arrive: the container's monitor has too many open files", Code: codeEngine}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	life := ctx
	if req.Detach {
		life = context.Background() // it ends with the container
	}
	cfg := &sandbox.Config{Args: req.Spec.Args, Env: withHostname(req.Spec.Env, c.m.c.Spec.Hostname), Dir: req.Spec.Dir, User: req.Spec.User,
		TTY: req.Spec.TTY, Stdin: files[0], Stdout: files[1], Stderr: files[2]}
	p, err := sandbox.StartIn(life, c.m.proc.Pid(), cfg)
	if errors.Is(err, sandbox.ErrGone) || err != nil && ctx.Err() != nil {
		return replyOf(errEnded)
	}
	if err != nil {
		r := replyOf(Explain(err, c.m.c.ImageName))
		r.Code = execCode(err)
		return r
	}
	if req.Detach {
		return reply{Status: &sandbox.Status{}}
	}
	if req.Size != (Size{}) {
		_ = p.Resize(req.Size.Cols, req.Size.Rows)
	}
	var wg sync.WaitGroup
	wg.Go(func() { resizes(conn, p, cancel) })
	st, err := p.Wait()
	conn.CloseRead()
	wg.Wait()
	if err != nil && st.Signal == 0 {
		return replyOf(err)
	}
	return reply{Status: &st}
}

// resizes passes the terminal's size on until the asker goes away, which ends
// the process.
func resizes(conn *net.UnixConn, p *sandbox.Process, gone func()) {
	defer gone()
	for {
		r, files, err := receive(conn)
		closeAll(files)
		if err != nil {
			return
		}
		if r.Op == "resize" && r.Size != (Size{}) {
			_ = p.Resize(r.Size.Cols, r.Size.Rows) // it may have ended
		}
	}
}

// send writes one packet with descriptors.
func send(conn *net.UnixConn, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxPacket {
		return fmt.Errorf("command and environment have %d bytes, more than %d", len(b), maxPacket)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(b, oob, nil)
	return err
}

// receive reads one packet with its descriptors.
func receive(conn *net.UnixConn) (*request, []*os.File, error) {
	buf, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(3*4))
	n, on, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	files, err := passedFiles(oob[:on])
	if err != nil {
		return nil, files, err
	}
	if n == 0 {
		return nil, files, errors.New("the connection was closed")
	}
	var req request
	return &req, files, json.Unmarshal(buf[:n], &req)
}

func passedFiles(oob []byte) ([]*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "stream"))
		}
	}
	return files, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
