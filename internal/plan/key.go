package plan

import (
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
	k.Bool("unpack", c.Add)
	k.List("sources", c.Sources)
	for _, h := range c.Heredocs {
		k.Text("heredoc.name", h.Name)
		k.Text("heredoc.content", h.Content)
	}
	k.Text("dest", c.Dest)
	k.Text("chown", c.Chown)
	k.Text("chmod", c.Chmod)
	k.Bool("context", c.From == nil)
}
