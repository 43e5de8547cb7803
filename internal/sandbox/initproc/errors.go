package initproc

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrNotInPath says that no directory of PATH has the command.
var ErrNotInPath = errors.New("executable file not found in $PATH")

// StartError is why a process could not be started. Op says at what:
// "namespace", "emulator", "root", "mount", "user", "table" (a file in which the user is
// looked up), "dir", "seccomp", "exec".
type StartError struct {
	Op   string
	Path string // what it is about: a mount's target, the user, the command
	Err  error  // ErrNotInPath, a syscall.Errno or a text

	// Of exec only, where it helps to say why. Interp is the interpreter that
	// the command asks for and that the root lacks; Found is a file of the
	// command's name that is not in PATH; Machine is the ELF machine of a
	// binary that is not for this one.
	Interp  string
	Found   string
	Machine string
}

func (e *StartError) Error() string {
	switch {
	case e.Op == "user" && e.Path != "":
		return e.Err.Error()
	case e.Op == "table":
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	case e.Op == "id":
		return fmt.Sprintf("user %s: this user namespace has no such id", e.Path)
	case e.Op == "exec" && errors.Is(e.Err, ErrNotInPath):
		return fmt.Sprintf("exec: %q: %v", e.Path, e.Err)
	case e.Interp != "":
		return fmt.Sprintf("exec %s: its interpreter %s: %v", e.Path, e.Interp, e.Err)
	}
	if e.Path == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }

// A StartError travels from the init to the caller with its error as one of
// three: the sentinel, a number of the kernel's, or a text.
const (
	errIsText = iota
	errIsErrno
	errIsNotInPath
)

func encodeStartError(s *StartError) []byte {
	var e encoder
	e.num(reportError)
	e.str(s.Op)
	e.str(s.Path)
	e.str(s.Interp)
	e.str(s.Found)
	e.str(s.Machine)
	var errno syscall.Errno
	switch {
	case errors.Is(s.Err, ErrNotInPath):
		e.num(errIsNotInPath)
	case errors.As(s.Err, &errno) && s.Err == error(errno):
		e.num(errIsErrno)
		e.num(int64(errno))
	default:
		e.num(errIsText)
		e.str(s.Err.Error())
	}
	return e.b
}

func decodeStartError(d *decoder) *StartError {
	s := &StartError{Op: d.str(), Path: d.str(), Interp: d.str(), Found: d.str(), Machine: d.str()}
	switch d.num() {
	case errIsNotInPath:
		s.Err = ErrNotInPath
	case errIsErrno:
		s.Err = syscall.Errno(d.num())
	default:
		s.Err = errors.New(d.str())
	}
	return s
}

// startError names op and path as the place of err. An error that is one
// already keeps its own.
func startError(op, path string, err error) error {
	var s *StartError
	if err == nil || errors.As(err, &s) {
		return err
	}
	return &StartError{Op: op, Path: path, Err: err}
}
