package plan

import (
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
)

// KeyFields adds to k all that the step itself says and that can change what
// it makes. What it reads (the file system below it, the content of what it
// copies) is for the caller to add.
func (s *Step) KeyFields(k *digest.Key) {
	switch {
	case s.Run != nil:
		s.Run.keyFields(k)
	case s.Copy != nil:
		s.Copy.keyFields(k)
	case s.Workdir != nil:
		k.Text("instruction", "WORKDIR")
		k.Text("path", s.Workdir.Path)
		k.Text("user", s.Workdir.User)
	}
}

func (r *Run) keyFields(k *digest.Key) {
	k.Text("instruction", "RUN")
	k.List("args", r.Args)
	k.List("env", r.Env)
	k.Text("dir", r.Dir)
	k.Text("user", r.User)
	k.Text("network", r.Network)
	k.List("hosts", hostNames(r.Hosts))
	k.Bool("script", r.Script != nil)
	if r.Script != nil {
		k.Text("script.path", r.Script.Path)
		k.Text("script.content", r.Script.Content)
	}
	k.Text("platform", r.Platform.String())
	k.Text("hostname", r.Hostname)
	k.Bool("insecure", r.Insecure)
	for i := range r.Mounts {
		r.Mounts[i].keyFields(k)
	}
	for _, u := range r.Limits.Ulimits {
		k.Text("ulimit", fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	k.Text("shm", fmt.Sprint(r.Limits.ShmSize))
	k.Text("cgroup", r.Limits.CgroupParent)
}

// keyFields leaves out what says where the files of a mount come from (their
// content counts, see Mount.Reads) and who else uses a cache.
func (m *Mount) keyFields(k *digest.Key) {
	k.Text("mount", m.Type)
	k.Text("mount.target", m.Target)
	k.Bool("mount.readonly", m.ReadOnly)
	switch m.Type {
	case MountTmpfs:
		k.Text("mount.size", fmt.Sprint(m.Size))
	case MountSecret, MountSSH:
		k.Text("mount.id", m.ID)
		k.Text("mount.env", m.Env)
		k.Bool("mount.required", m.Required)
	}
	if m.Owned {
		k.Text("mount.owner", fmt.Sprintf("%o %d:%d", m.Mode, m.UID, m.GID))
	}
}

// said is what of the mounts and limits of the step the State of its line
// counts.
func (r *Run) said() []string {
	out := []string{r.Hostname, fmt.Sprint(r.Insecure, r.Limits)}
	for i := range r.Mounts {
		m := &r.Mounts[i]
		out = append(out, m.Type, m.Target, m.FromText, m.Source, m.ID, m.Env, fmt.Sprint(m.ReadOnly, m.Size, m.Required, m.Owned, m.Mode, m.UID, m.GID))
	}
	return out
}

// hostNames drops the addresses: they say where a host is today, not what the
// step makes.
func hostNames(hosts []string) []string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i], _, _ = strings.Cut(h, ":")
	}
	return names
}

func (c *Copy) keyFields(k *digest.Key) {
	k.Text("instruction", "COPY")
	k.Bool("unpack", c.Unpack)
	k.List("sources", c.Sources)
	k.Bool("parents", c.Parents)
	k.List("excludes", c.Excludes)
	k.Bool("link", c.Link)
	for i := range c.Remotes {
		c.Remotes[i].keyFields(k)
		k.Bool("remote.unpack", c.UnpackRemote)
	}
	for _, h := range c.Heredocs {
		k.Text("heredoc.name", h.Name)
		k.Text("heredoc.content", h.Content)
	}
	k.Text("dest", c.Dest)
	k.Text("chown", c.Chown)
	k.Text("chmod", c.Chmod)
	k.Bool("context", c.From == nil)
}
