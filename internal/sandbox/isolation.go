package sandbox

import (
	"fmt"
	"strings"
)

// Isolation is how a process is kept apart from the rest of the machine. The
// zero value is Native.
type Isolation struct {
	Mode    string // Native, or "" for it
	Runtime string // program that does it, where that is not whittle's own code
}

// The values of Isolation.Mode.
const (
	Native = "native" // namespaces, made by this package
	Chroot = "chroot" // no namespaces and no mounts: for a container without rights
	OCI    = "oci"    // by the program Runtime, which is told as the OCI runtime spec has it
)

// ParseIsolation reads the value of --isolation; "" is Native.
func ParseIsolation(s string) (Isolation, error) {
	switch s {
	case "", "default", Native: // docker's word is default
		return Isolation{Mode: Native}, nil
	case Chroot:
		return Isolation{Mode: Chroot}, nil
	}
	if name, ok := strings.CutPrefix(s, OCI+"="); ok && name != "" {
		return Isolation{Mode: OCI, Runtime: name}, nil
	}
	return Isolation{}, fmt.Errorf("isolation %q: there is no such way to run a step", s)
}

// IsolationHint says what ParseIsolation takes.
const IsolationHint = "there are native, chroot, and oci=RUNTIME for a program such as runc or crun"

// String is what ParseIsolation reads.
func (i Isolation) String() string {
	switch {
	case i.Mode == "":
		return Native
	case i.Runtime != "":
		return i.Mode + "=" + i.Runtime
	}
	return i.Mode
}
