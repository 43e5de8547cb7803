package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Finding is what this machine allows in one respect, as it will be used.
type Finding struct {
	What string `json:"what"`
	Is   string `json:"is"`
	Why  string `json:"why,omitempty"`
}

// Findings tries what sandboxes need, and says what they get and why. refused
// is why there is no user namespace where one is needed; by is the isolation
// that was chosen, "" when none works.
func Findings(by string, refused error) []Finding {
	list := []Finding{isolationFinding(by, refused), idsFinding()}
	switch by {
	default: // native, or a runtime, for which the same has to be allowed
		list = append(list, pidFinding(), networkFinding(), runtimesFinding())
	case Chroot, "":
		list = append(list, Finding{What: "pid namespace", Is: "none", Why: "no namespaces are made"},
			Finding{What: "network", Is: "host", Why: "no namespaces are made"})
	}
	return append(list, cgroupFinding(), seccompFinding(by))
}

func isolationFinding(by string, refused error) Finding {
	f := Finding{What: "isolation", Is: by}
	switch {
	case refused != nil:
		f.Why = refused.Error()
	case by == Native && InUserNS():
		f.Why = "namespaces and mounts, in a user namespace"
	case by == Native:
		f.Why = "namespaces and mounts"
	case strings.HasPrefix(by, OCI+"="):
		f.Why = "namespaces and mounts, made by that runtime"
	}
	if by == "" {
		f.Is = "none: no RUN"
	}
	return f
}

func idsFinding() Finding {
	f := Finding{What: "ids"}
	why := OneID()
	m, err := sameIDs()
	switch {
	case why != nil:
		f.Is, f.Why = "one", fmt.Sprintf("%v; %s; owners are recorded, and files are all root's for a step", why, why.Way)
	case err != nil:
		f.Is, f.Why = "unknown", err.Error()
	case os.Geteuid() != 0:
		f.Is, f.Why = "one", "there is no user namespace"
	case !InUserNS():
		f.Is, f.Why = "all", "root"
	default:
		n := 0
		for _, r := range m.uids {
			n += r.Size
		}
		f.Is, f.Why = fmt.Sprint(n), "those that /etc/subuid and /etc/subgid give"
		if n >= 1<<32-2 {
			f.Is, f.Why = "all", "root of a container, in a user namespace of its own"
		}
	}
	return f
}

func pidFinding() Finding {
	f := Finding{What: "pid namespace", Is: "a step's own"}
	if !canMountProc() {
		f.Is, f.Why = "shared", "no new /proc can be mounted, because parts of this one are hidden; a step sees the processes here, and its own end with it"
	}
	return f
}

// networkFinding says which networks a step can have, and what keeps it from a
// private one.
func networkFinding() Finding {
	f := Finding{What: "network", Is: "host, none, private", Why: "a step shares the network unless --network says otherwise"}
	if err := privateNetwork(); err != nil {
		f.Is, f.Why = "host, none", fmt.Sprintf("a step shares the network unless --network none is said; %v", err)
	}
	return f
}

// privateNetwork is what keeps steps from a network that leads out by pasta.
func privateNetwork() error {
	if err := CheckPasta(); err != nil {
		return err
	}
	if err := unix.Access(tunDevice, unix.R_OK|unix.W_OK); err != nil {
		return &NetworkError{fmt.Errorf("%s: %w", tunDevice, err)}
	}
	return nil
}

// runtimesFinding names the OCI runtimes that are installed, of those that are
// known to have runc's command line.
func runtimesFinding() Finding {
	f := Finding{What: "OCI runtimes", Is: "none found", Why: "--isolation oci=RUNTIME needs one; native needs none"}
	var found []string
	for _, name := range []string{"runc", "crun", "runsc"} {
		if (Isolation{Mode: OCI, Runtime: name}).Check() == nil {
			found = append(found, name)
		}
	}
	if len(found) > 0 {
		f.Is, f.Why = strings.Join(found, ", "), fmt.Sprintf("used where --isolation oci=%s says so", found[0])
	}
	return f
}

// canMountProc tries to mount the /proc of a new pid namespace.
func canMountProc() bool {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{argvProbe}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd.Run() == nil
}

// probeProc is the process that tries; it returns its exit code.
func probeProc() int {
	fd, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err == nil {
		err = unix.FsconfigCreate(fd)
	}
	if err == nil {
		_, err = unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	}
	if err != nil {
		return 1
	}
	return 0
}

func cgroupFinding() Finding {
	f := Finding{What: "control groups", Is: "limits work"}
	g, err := NewCgroup("", Resources{CPUShares: 1024})
	if err == nil {
		err = g.Close()
	}
	if err != nil {
		f.Is, f.Why = "no limits", err.Error()
	}
	return f
}

func seccompFinding(by string) Finding {
	f := Finding{What: "seccomp", Is: "Docker's profile for every step"}
	if by == "" {
		f.Is = "no step"
	}
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), "\nSeccomp:\t")
	switch {
	case rest == "":
		f.Is, f.Why = "none", "the kernel has none"
	case rest[0] != '0':
		f.Why = "whittle itself is under a filter"
	}
	return f
}
