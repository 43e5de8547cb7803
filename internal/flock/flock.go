// Package flock takes locks of open files that the kernel gives back when the process
// dies, however it dies (flock(2)). They exclude goroutines of one process as well as
// processes, if each has opened the file for itself.
package flock

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How a lock is held.
const (
	Shared    = unix.LOCK_SH
	Exclusive = unix.LOCK_EX
)

// A blocked flock cannot be called off when a context ends: it is asked for again, first
// after minWait, then at most maxWait apart.
const (
	minWait = 500 * time.Microsecond
	maxWait = 20 * time.Millisecond
)

// Try takes the lock of f if nobody holds it in a way that forbids it.
func Try(f *os.File, how int) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch err {
		case nil:
			return true, nil
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
			return false, nil
		}
		return false, fmt.Errorf("%s: flock: %w", f.Name(), err)
	}
}

// Wait takes the lock of f, when that is free. waiting, if not nil, is called once when
// somebody else holds it. The end of ctx ends the waiting with its cause.
func Wait(ctx context.Context, f *os.File, how int, waiting func()) error {
	return Until(ctx, func() (bool, error) { return Try(f, how) }, waiting)
}

// Until is Wait for what takes more than one lock, or looks for one that is free: try says
// whether it has what it wants.
func Until(ctx context.Context, try func() (bool, error), waiting func()) error {
	for wait := minWait; ; wait = min(wait*3/2, maxWait) {
		done, err := try()
		if done || err != nil {
			return err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Unlock gives the lock back at once. To close f would not be enough: a child that is
// just being made has the description too, until it executes its program.
func Unlock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }
