package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// errInterrupted is what each interruption is.
var errInterrupted = errors.New("interrupted")

// An interruption is the cause of a cancel by a signal.
type interruption struct{ signal syscall.Signal }

func (e *interruption) Error() string        { return errInterrupted.Error() }
func (e *interruption) Is(target error) bool { return target == errInterrupted }

// code is what a shell has for the end of a process by the signal.
func (e *interruption) code() int { return 128 + int(e.signal) }

// interruptCode is the exit code for the cancel of ctx by a signal; ok is false
// when there was none.
func interruptCode(ctx context.Context) (code int, ok bool) {
	var by *interruption
	if !errors.As(context.Cause(ctx), &by) {
		return 0, false
	}
	return by.code(), true
}

// sameSignal is how long after the first signal another one is its echo: a
// terminal and timeout(1) both signal the process and then its whole group.
const sameSignal = 300 * time.Millisecond

// signals are those that this program gets. Each one that ends a program is
// heard at one place, so that it is never between two: it has cancelled the
// program's context before somebody takes the signals, or they are given it.
type signals struct {
	mu     sync.Mutex
	cancel context.CancelCauseFunc
	first  *interruption
	at     time.Time // of the first
	taker  chan<- os.Signal

	// passOn is set while signals belong to a container or to the process in a
	// user namespace: then no number of them ends this one.
	passOn atomic.Bool
}

// hear cancels at the first SIGINT, SIGTERM or SIGHUP, so that everything that
// runs is ended in order; a second one ends the program at once, which the
// store's design makes safe; but not while signals are passed on.
func (s *signals) hear(cancel context.CancelCauseFunc) (stop func()) {
	s.cancel = cancel
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for sig := range c {
			s.heard(sig.(syscall.Signal))
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}

func (s *signals) heard(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taker != nil {
		select {
		case s.taker <- sig:
		default: // it has enough of them
		}
	}
	by := &interruption{sig}
	switch {
	case s.first == nil:
		s.first, s.at = by, time.Now()
		s.cancel(by)
	case time.Since(s.at) > sameSignal && !s.passOn.Load():
		os.Exit(by.code())
	}
}

// take gives the signals from now on, and others too, to the channel that it
// returns; stop ends that. They still cancel the program's context. Had one come
// before, it is the error.
func (s *signals) take(others ...os.Signal) (c chan os.Signal, stop func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		return nil, nil, s.first
	}
	c = make(chan os.Signal, 64)
	s.taker = c
	signal.Notify(c, others...)
	return c, func() {
		signal.Stop(c)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taker = nil
	}, nil
}
