package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// Spec describes to an OCI runtime what Run does with c. What a runtime has
// to be told by path (the root, the sources of mounts) is named through
// /proc/self/fd, where the caller has it open; User must be in numbers, since
// a runtime does not look names up.
func Spec(c *Config) (*specs.Spec, error) {
	var uid, gid uint32
	if c.User != "" {
		if _, err := fmt.Sscanf(c.User, "%d:%d", &uid, &gid); err != nil {
			return nil, fmt.Errorf("user %q: want uid:gid for an OCI runtime", c.User)
		}
	}
	if c.Insecure || slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Content != nil }) {
		return nil, errors.New("all rights, and files of memory, are the native sandbox's alone")
	}
	seccomp, err := defaultProfile()
	if err != nil {
		return nil, err
	}
	dir, hostname := c.Dir, c.Hostname
	if dir == "" {
		dir = "/"
	}
	if hostname == "" {
		hostname = DefaultHostname
	}
	caps := initproc.CapNames()
	umask := uint32(0o022)
	user := specs.User{UID: uid, GID: gid, AdditionalGids: []uint32{gid}, Umask: &umask}
	permitted := caps
	if uid != 0 {
		permitted = nil
	}
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: hostname,
		Root:     &specs.Root{Path: fdPath(int(c.Root.Fd())), Readonly: c.ReadOnlyRoot},
		Process: &specs.Process{
			Terminal: c.TTY, User: user, Args: c.Args, Env: c.Env, Cwd: dir, NoNewPrivileges: c.NoNewPrivs,
			Rlimits:      specRlimits(c.Rlimits),
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: permitted, Permitted: permitted},
		},
		Mounts: append(specMounts(c.ShmSize), configMounts(c.Mounts)...),
		Linux: &specs.Linux{
			Namespaces:    specNamespaces(c.Network),
			Seccomp:       seccomp,
			MaskedPaths:   append(prefixed("/proc/", initproc.ProcMasked), prefixed("/sys/", initproc.SysMasked)...),
			ReadonlyPaths: prefixed("/proc/", initproc.ProcReadOnly),
		},
	}, nil
}

func specRlimits(list []Rlimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, r := range list {
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(r.Name), Soft: r.Soft, Hard: r.Hard})
	}
	return out
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func prefixed(prefix string, names []string) []string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = prefix + n
	}
	return list
}

func specNamespaces(network string) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{
		{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
	}
	if network != "" && network != NetworkHost {
		list = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	return list
}

func specMounts(shm int64) []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", initproc.ShmOption(shm)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
}

func configMounts(list []Mount) []specs.Mount {
	var res []specs.Mount
	for _, m := range list {
		source, kind, options := m.Path, "bind", []string{"rbind", "nodev"}
		switch {
		case m.File != nil:
			source = fdPath(int(m.File.Fd()))
		case m.Path == "":
			source, kind, options = "tmpfs", "tmpfs", append([]string{"nosuid", "nodev"}, m.Options...)
		}
		if m.Sub != "" {
			source += "/" + m.Sub
		}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		res = append(res, specs.Mount{Destination: m.Target, Type: kind, Source: source, Options: options})
	}
	return res
}
