package sandbox

import (
	"fmt"
	"os"
	"strings"
)

// notBegun is the error of an init that ended, as waited says, before it was
// the command, and without saying why.
func notBegun(command string, err, waited error, oomBefore int64) error {
	err = fmt.Errorf("init: %w", err)
	if waited != nil {
		err = fmt.Errorf("%w (%w)", err, waited)
	}
	if oomKills() > oomBefore {
		err = ErrMemory
	}
	return &StartError{Op: "exec", Path: command, Err: err}
}

// oomKills returns how many processes of the machine the kernel has killed for
// lack of memory, in control groups too.
func oomKills() int64 {
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "\noom_kill ")
	var n int64
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
