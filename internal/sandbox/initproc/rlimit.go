package initproc

import (
	"fmt"
	"syscall"
)

// limit sets the limits of the command. Raising a hard one takes rights that
// confine gives up.
func (p *initProc) limit() error {
	for _, r := range p.Rlimits {
		// Not by package unix: syscall.Exec would put back the limit of open
		// files that the process had at its start.
		if err := syscall.Setrlimit(r.Resource, &syscall.Rlimit{Cur: r.Soft, Max: r.Hard}); err != nil {
			return &StartError{Op: "ulimit", Path: fmt.Sprintf("%s=%d:%d", r.Name, int64(r.Soft), int64(r.Hard)), Err: err}
		}
	}
	return nil
}
