package container

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSignal is the last real-time signal, signal(7).
const maxSignal = 64

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
	return unix.SignalNum(s)
}

func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return "signal " + strconv.Itoa(int(sig))
}
