package container

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSignal is the last real-time signal, signal(7).
const maxSignal = 64

// minRealTime is the first that libc leaves to programs, signal(7).
const minRealTime = 34

// ParseSignal reads SIGTERM, TERM, term or 15; 0 is no signal.
func ParseSignal(s string) unix.Signal {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > maxSignal {
			return 0
		}
		return unix.Signal(n)
	}
	s = strings.ToUpper(s)
	if !strings.HasPrefix(s, "SIG") {
		s = "SIG" + s
	}
	switch s {
	case "SIGCLD":
		return unix.SIGCHLD
	case "SIGIOT":
		return unix.SIGABRT
	case "SIGPOLL":
		return unix.SIGIO
	}
	if sig := realTime(s); sig != 0 {
		return sig
	}
	return unix.SignalNum(s)
}

// realTime reads SIGRTMIN, SIGRTMIN+3 (systemd's halt) and SIGRTMAX-1, as a
// Dockerfile's STOPSIGNAL may say them.
func realTime(s string) unix.Signal {
	base, sign, n := minRealTime, "+", 0
	rest, ok := strings.CutPrefix(s, "SIGRTMIN")
	if !ok {
		base, sign = maxSignal, "-"
		if rest, ok = strings.CutPrefix(s, "SIGRTMAX"); !ok {
			return 0
		}
	}
	if rest != "" {
		var err error
		if n, err = strconv.Atoi(rest); err != nil || !strings.HasPrefix(rest, sign) {
			return 0
		}
	}
	if base+n < minRealTime || base+n > maxSignal {
		return 0
	}
	return unix.Signal(base + n)
}

func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return "signal " + strconv.Itoa(int(sig))
}
