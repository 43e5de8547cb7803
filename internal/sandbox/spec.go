package sandbox

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// ociSpec is the part of specs.Spec that is said to a runtime: the whole of it,
// other systems and virtual machines with it, would be in the program only to
// be left out of each message.
type ociSpec struct {
	Version  string        `json:"ociVersion"`
	Process  ociProcess    `json:"process"`
	Root     specs.Root    `json:"root"`
	Hostname string        `json:"hostname,omitempty"`
	Mounts   []specs.Mount `json:"mounts"`
	Linux    ociLinux      `json:"linux"`
}

type ociProcess struct {
	User            specs.User               `json:"user"`
	Args            []string                 `json:"args"`
	Env             []string                 `json:"env,omitempty"`
	Cwd             string                   `json:"cwd"`
	Capabilities    *specs.LinuxCapabilities `json:"capabilities,omitempty"`
	Rlimits         []specs.POSIXRlimit      `json:"rlimits,omitempty"`
	NoNewPrivileges bool                     `json:"noNewPrivileges,omitempty"`
}

type ociLinux struct {
	Namespaces    []specs.LinuxNamespace `json:"namespaces"`
	Resources     ociResources           `json:"resources"`
	CgroupsPath   string                 `json:"cgroupsPath,omitempty"`
	Devices       []specs.LinuxDevice    `json:"devices,omitempty"`
	Seccomp       *specs.LinuxSeccomp    `json:"seccomp,omitempty"`
	MaskedPaths   []string               `json:"maskedPaths,omitempty"`
	ReadonlyPaths []string               `json:"readonlyPaths,omitempty"`
}

type ociResources struct {
	Devices []specs.LinuxDeviceCgroup `json:"devices"`
}

// specOf describes to an OCI runtime what this package does itself with s:
// the same rights, the same file systems of the kernel, the same limits. The
// mounts of s are in the root already, and so is the network.
func specOf(s *initproc.Setup, p *initproc.Prepared, userNS bool) (*ociSpec, error) {
	umask := uint32(0o022)
	out := &ociSpec{
		Version:  "1.0.2",
		Hostname: s.Hostname,
		Root:     specs.Root{Path: p.Root, Readonly: s.ReadOnly},
		Process: ociProcess{
			User: specs.User{UID: uint32(p.UID), GID: uint32(p.GID), AdditionalGids: p.Groups, Umask: &umask},
			Args: s.Args, Env: p.Env, Cwd: path.Join("/", s.Dir), NoNewPrivileges: s.NoNewPrivs,
			Rlimits: specRlimits(s.Rlimits),
		},
		Mounts: append(specMounts(s, userNS), specLate(p.Late)...),
		Linux: ociLinux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
			// The devices of /dev are allowed by the runtime itself.
			Resources: ociResources{Devices: []specs.LinuxDeviceCgroup{{Allow: s.Insecure, Access: "rwm"}}},
		},
	}
	if s.Insecure {
		return out, specInsecure(out)
	}
	caps := initproc.CapNames()
	out.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps}
	if p.UID == 0 {
		out.Process.Capabilities.Effective, out.Process.Capabilities.Permitted = caps, caps
	}
	out.Linux.MaskedPaths = append(prefixed("/proc/", initproc.ProcMasked), prefixed("/sys/", initproc.SysMasked)...)
	out.Linux.ReadonlyPaths = prefixed("/proc/", initproc.ProcReadOnly)
	var err error
	out.Linux.Seccomp, err = defaultProfile()
	return out, err
}

// specInsecure gives all rights that this process has, and the machine's
// devices.
func specInsecure(out *ociSpec) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	var all []string
	for i, name := range capabilityNames() {
		if data[i/32].Permitted&(1<<(i%32)) != 0 {
			all = append(all, "CAP_"+name)
		}
	}
	out.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: all, Ambient: all}
	for _, name := range initproc.InsecureDevices() {
		var st unix.Stat_t
		if err := unix.Lstat("/dev/"+name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR && st.Mode&unix.S_IFMT != unix.S_IFBLK {
			continue
		}
		kind := "c"
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			kind = "b"
		}
		out.Linux.Devices = append(out.Linux.Devices, specs.LinuxDevice{
			Path: "/dev/" + name, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		})
	}
	return nil
}

// capabilityNames are the names of linux/capability.h by their numbers.
func capabilityNames() []string {
	return strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
		NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
		SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
		SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)
}

func specRlimits(list []Rlimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, r := range list {
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(r.Name), Soft: r.Soft, Hard: r.Hard})
	}
	return out
}

func prefixed(prefix string, names []string) []string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = prefix + n
	}
	return list
}

func specMounts(s *initproc.Setup, userNS bool) []specs.Mount {
	data := []string{"nosuid", "noexec", "nodev"}
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: data}
	if userNS && !s.OwnNet {
		// Only who owns the network may make a /sys: it is the caller's.
		sys.Type, sys.Source, sys.Options = "bind", "/sys", append([]string{"rbind"}, data...)
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if initproc.HasGroup(ttyGroup) {
		pts = append(pts, fmt.Sprintf("gid=%d", ttyGroup))
	}
	if !s.Insecure {
		sys.Options = append(sys.Options[:len(sys.Options):len(sys.Options)], "ro")
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: data},
		sys,
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", initproc.ShmOption(s.ShmSize)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: data},
	}
}

// ttyGroup is the group of terminals.
const ttyGroup = 5

func specLate(list []initproc.Late) []specs.Mount {
	var out []specs.Mount
	for _, l := range list {
		options := []string{"rbind", "nodev"}
		if l.ReadOnly {
			options = append(options, "ro")
		}
		out = append(out, specs.Mount{Destination: l.Target, Type: "bind", Source: l.Source, Options: options})
	}
	return out
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
