package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// talk sends s to the init, with the descriptors that it has not inherited, and
// reads its report, which ends when the init executes the command or ends. What
// takes time is done here, while the init starts.
func (p *Process) talk(ctx context.Context, sock *os.File, l *launch, passed []*os.File) (initproc.Report, *terminal, error) {
	s := l.setup
	if !s.Insecure && l.order == nil {
		filter, err := defaultFilter()
		if err != nil {
			return initproc.Report{}, nil, fmt.Errorf("seccomp: %w", err)
		}
		s.Filter = filter
	}
	if l.config.Network == NetworkPasta { // before the init goes on
		var err error
		if p.pasta, err = startPasta(ctx, p.proc.Pid); err != nil {
			return initproc.Report{}, nil, err
		}
	}
	end := unix.SIGKILL
	if s.SharedPIDs {
		end = unix.SIGTERM // to the reaper, which kills the others
	}
	// Before the init goes on: the command may change its user at once, and a
	// runtime makes control groups.
	if err := keep(p.proc.Pid, end, append(l.dirs, l.config.Cgroup.folders()...)); err != nil {
		return initproc.Report{}, nil, err
	}
	if err := tell(sock, append(s.Message(), l.order...), passed); err != nil {
		return initproc.Report{}, nil, err
	}
	var tty *terminal
	var all []byte
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(int(sock.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			r, derr := initproc.DecodeReport(all)
			return r, tty, errors.Join(err, derr)
		}
		all = append(all, buf[:n]...)
		if fd := passedFD(oob[:oobn]); fd >= 0 {
			tty.close()
			tty = newTerminal(fd)
		}
	}
}

// tell writes a message to an init, and passes it descriptors with its first
// bytes.
func tell(sock *os.File, message []byte, passed []*os.File) error {
	if len(passed) > 0 {
		fds := make([]int, len(passed))
		for i, f := range passed {
			fds[i] = int(f.Fd())
		}
		n, err := unix.SendmsgN(int(sock.Fd()), message, unix.UnixRights(fds...), nil, 0)
		if err != nil {
			return err
		}
		if message = message[n:]; len(message) == 0 {
			return nil
		}
	}
	_, err := sock.Write(message)
	return err
}

func socketPair() (*os.File, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "init"), os.NewFile(uintptr(fds[1]), "caller"), nil
}
