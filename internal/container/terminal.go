package container

import (
	"errors"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// Terminal is the caller's terminal while it belongs to a container.
type Terminal struct {
	f     *os.File
	old   *unix.Termios // nil when it was not changed
	winch chan os.Signal
	sizes chan Size
	done  chan struct{}
	wg    sync.WaitGroup
}

// OpenTerminal puts the terminal f into raw mode (termios(3)) until Close:
// every key goes to the container as it is.
func OpenTerminal(f *os.File) (*Terminal, error) {
	old, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, errors.New("standard input is not a terminal")
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	t := WatchTerminal(f)
	t.old = old
	return t, nil
}

// WatchTerminal only tells the size of f, which may be no terminal at all.
func WatchTerminal(f *os.File) *Terminal {
	t := &Terminal{f: f, winch: make(chan os.Signal, 1), sizes: make(chan Size, 1), done: make(chan struct{})}
	signal.Notify(t.winch, unix.SIGWINCH)
	t.winch <- unix.SIGWINCH // the size that it has now
	t.wg.Go(t.watch)
	return t
}

func (t *Terminal) watch() {
	for {
		select {
		case <-t.winch:
			size := Size{} // which leaves the other end's as it is
			if ws, err := unix.IoctlGetWinsize(int(t.f.Fd()), unix.TIOCGWINSZ); err == nil {
				size = Size{ws.Col, ws.Row}
			}
			select {
			case t.sizes <- size:
			case <-t.done:
				return
			}
		case <-t.done:
			return
		}
	}
}

// Sizes gives the terminal's size, now and whenever it changes.
func (t *Terminal) Sizes() <-chan Size { return t.sizes }

// Close gives the terminal back as it was.
func (t *Terminal) Close() error {
	signal.Stop(t.winch)
	close(t.done)
	t.wg.Wait()
	if t.old == nil {
		return nil
	}
	return unix.IoctlSetTermios(int(t.f.Fd()), unix.TCSETS, t.old)
}
