//go:build crashpoints

package crash

import (
	"os"
	"syscall"
)

// Point kills the process without any clean-up, as a power cut or kill -9
// would, when WHITTLE_CRASH is name.
func Point(name string) {
	if os.Getenv("WHITTLE_CRASH") != name {
		return
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
