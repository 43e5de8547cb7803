package plan

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

// Mount is one --mount of a RUN.
type Mount struct {
	Type     string // bind, cache, tmpfs, secret or ssh
	Target   string // absolute and clean; "" for a secret that is a variable only
	ReadOnly bool
	// From is what a bind shows and what a new cache has: nil is the build
	// context of a bind and nothing for a cache. Source is the absolute clean
	// path in it.
	From      *Root
	FromText  string
	FromStage *Stage
	Source    string
	// ID names a cache (with its namespace), a secret or an agent.
	ID       string
	Sharing  string // of a cache: shared, private or locked
	Size     int64  // of a tmpfs; 0 is no limit
	Env      string // of a secret: the variable that has its value
	Required bool
	Owned    bool // Mode, UID and GID were said, at least one of them
	Mode     uint32
	UID, GID uint32
}

// The types of a Mount, and the ways to share a cache.
const (
	MountBind   = "bind"
	MountCache  = "cache"
	MountTmpfs  = "tmpfs"
	MountSecret = "secret"
	MountSSH    = "ssh"

	SharedCache  = "shared"
	PrivateCache = "private"
	LockedCache  = "locked"
)

// Reads says whether what the step makes depends on what the mount shows.
func (m *Mount) Reads() bool { return m.Type == MountBind || m.Type == MountCache && m.From != nil }

// mountSources finds what the mounts of a RUN name in from=. No number is a
// stage here, other than for COPY.
func (p *planner) mountSources(s *stage, in *dockerfile.Instruction) {
	run, ok := in.Command.(*dockerfile.Run)
	if !ok {
		return
	}
	for _, from := range run.MountsFrom() {
		src := &source{}
		s.mounts[in] = append(s.mounts[in], src)
		if from == "" {
			continue
		}
		var err error
		if *src, err = p.meaning(from); err != nil {
			src.bad = true
			p.fail(in.Pos, err.Error(), p.mountFromHint(s, from))
		}
	}
}

func (p *planner) mountFromHint(s *stage, from string) string {
	n, err := strconv.Atoi(from)
	if err != nil || n < 0 || n >= len(p.stages) {
		return p.imageHint(s, from)
	}
	if name := p.stages[n].src.Name; name != "" {
		return fmt.Sprintf("from= knows no numbers of stages: write from=%s", name)
	}
	return "from= knows no numbers of stages: name the stage, FROM image AS build, and write from=build"
}

// sources are what the instruction reads besides the stage's own files.
func (s *stage) sources(in *dockerfile.Instruction) []*source {
	if c := s.copies[in]; c != nil {
		return []*source{c}
	}
	return s.mounts[in]
}

// errNoted is the error of a word whose mistake was noted already.
var errNoted = errors.New("noted")

// mounts are those of the current RUN. The environment gets what they set.
func (st *state) mounts(c *dockerfile.Run) ([]Mount, bool) {
	list, err := c.Mounts(func(w string) (string, error) {
		text, ok := st.word(w)
		if !ok {
			return "", errNoted
		}
		return text, nil
	})
	var mistake *dockerfile.Error
	if errors.As(err, &mistake) {
		st.fail(mistake.Msg, mistake.Hint)
	}
	if err != nil {
		return nil, false
	}
	var out []Mount
	for i := range list {
		m, ok := st.mount(&list[i], st.s.mounts[st.in][i])
		if !ok {
			return nil, false
		}
		if m.Type == MountSSH && m.Target == "" {
			m.Target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", countSSH(out))
		}
		out = append(out, m)
	}
	return out, true
}

func countSSH(list []Mount) (n int) {
	for _, m := range list {
		if m.Type == MountSSH {
			n++
		}
	}
	return n
}

func (st *state) mount(d *dockerfile.Mount, from *source) (Mount, bool) {
	m := Mount{
		Type: d.Type, ReadOnly: d.ReadOnly, FromText: d.From, Source: path.Join("/", d.Source), ID: d.ID,
		Size: d.Size, Required: d.Required, Owned: d.Mode != nil || d.UID != nil || d.GID != nil,
	}
	if d.Size < 0 { // as the parser has it when the number is too large
		st.fail("invalid value for size: it is too large", "write bytes, or 10m")
		return m, false
	}
	for _, id := range []*uint64{d.UID, d.GID} {
		if id != nil && *id == math.MaxUint32 { // chown(2): "leave it as it is"
			st.fail(fmt.Sprintf("%d is the number of no user and of no group", *id), "write the number of one, at most 4294967294")
			return m, false
		}
	}
	m.Mode, m.UID, m.GID = number(d.Mode, 0o755), number(d.UID, 0), number(d.GID, 0)
	switch d.Type {
	case MountSecret:
		return st.secret(m, d)
	case MountSSH:
		return st.ssh(m, d)
	case MountCache:
		m.ID = cmp.Or(m.ID, path.Clean(d.Target))
		if ns := st.p.req.Args["BUILDKIT_CACHE_MOUNT_NS"]; ns != "" {
			m.ID = ns + "/" + m.ID
		}
		m.Sharing = cmp.Or(d.Sharing, SharedCache)
	}
	if m.Type != MountTmpfs && d.From != "" && !st.mountFrom(&m, from) {
		return m, false
	}
	m.Target = st.target(d.Target)
	if m.Target == "/" {
		st.fail(fmt.Sprintf("invalid mount target %q", m.Target), "write target=/path, the place where the step finds it")
		return m, false
	}
	return m, true
}

// mountFrom fills in where the files of a bind or a new cache come from.
func (st *state) mountFrom(m *Mount, from *source) bool {
	if !st.known(from) {
		return false
	}
	m.From = from.root()
	if from.stage != nil {
		m.FromStage = from.stage.out
	}
	return true
}

// target is a path as an absolute one: others begin at the WORKDIR.
func (st *state) target(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(st.dir(), name)
}

func (st *state) secret(m Mount, d *dockerfile.Mount) (Mount, bool) {
	if d.Source != "" {
		m.ID = d.Source
	}
	if m.ID == "" {
		m.ID = path.Base(d.Target)
	}
	m.Mode = number(d.Mode, 0o400)
	m.Source = ""
	if d.Env != nil {
		if m.Env = *d.Env; m.Env == "" {
			st.fail("the name of env= is empty", "write env=NAME, the variable that has the secret, or leave env out: then it is a file in /run/secrets")
			return m, false
		}
	}
	switch {
	case d.Target != "":
		m.Target = st.target(d.Target)
	case d.Env == nil:
		m.Target = "/run/secrets/" + path.Base(m.ID)
	}
	if m.Target == "/" {
		st.fail(fmt.Sprintf("invalid mount target %q", m.Target), "write target=/path, the file that has the secret")
		return m, false
	}
	return m, true
}

func (st *state) ssh(m Mount, d *dockerfile.Mount) (Mount, bool) {
	if d.Source != "" {
		st.fail("ssh does not support source", "the agent is named by id, and given with --ssh id=SOCKET")
		return m, false
	}
	m.ID = cmp.Or(d.ID, "default")
	m.Mode = number(d.Mode, 0o600)
	m.Source = ""
	if d.Target != "" {
		m.Target = st.target(d.Target)
	}
	return m, true
}

func number(n *uint64, otherwise uint32) uint32 {
	if n == nil {
		return otherwise
	}
	return uint32(*n)
}

// agentEnv tells the step where its first agent is, unless the stage does.
func (st *state) agentEnv(env []string, mounts []Mount) []string {
	i := slices.IndexFunc(mounts, func(m Mount) bool { return m.Type == MountSSH })
	if _, set := st.vars.Get("SSH_AUTH_SOCK"); set || i < 0 {
		return env
	}
	return append(env[:len(env):len(env)], "SSH_AUTH_SOCK="+mounts[i].Target)
}

// masked are the variables as a title shows them: those that have a secret's
// value are known by their names only.
func (st *state) masked(mounts []Mount) *dockerfile.Vars {
	vars := st.vars
	for _, m := range mounts {
		if m.Env == "" {
			continue
		}
		if vars == st.vars {
			vars = vars.Clone()
		}
		vars.Set(m.Env, "****")
	}
	return vars
}

// entitled refuses what the caller has to allow by name.
func (st *state) entitled(c *dockerfile.Run) bool {
	const ask = "such a step is not shut off from this machine: if the Dockerfile may have that, build with --allow "
	switch {
	case c.Network == "host" && !slices.Contains(st.p.req.Allow, "network.host"):
		st.fail("network.host is not allowed",
			"leave --network=host out: a step's own network is this machine's already; or build with --allow network.host")
	case c.Insecure && !slices.Contains(st.p.req.Allow, "security.insecure"):
		st.fail("security.insecure is not allowed", ask+"security.insecure")
	default:
		return st.hasDevices(c)
	}
	return false
}

// hasDevices refuses a step that cannot do without a device. None is registered
// here, so that a step gets none that it only may have.
func (st *state) hasDevices(c *dockerfile.Run) bool {
	for _, d := range c.Devices {
		if d.Required {
			st.fail(fmt.Sprintf("required device %q is not registered", d.Name),
				"leave required out if the step can do without; one that needs the machine's devices can have all of them with --security=insecure, and --allow security.insecure on the command line")
			return false
		}
	}
	return true
}

// Reads are the file systems that the step reads besides the one below it,
// the build context left out.
func (s *Step) Reads() []Root {
	var out []Root
	if s.Copy != nil && s.Copy.From != nil {
		out = append(out, *s.Copy.From)
	}
	if s.Run == nil {
		return out
	}
	for _, m := range s.Run.Mounts {
		if m.From != nil {
			out = append(out, *m.From)
		}
	}
	return out
}

// readsStage says whether the step reads another stage.
func (s *Step) readsStage() bool {
	return s.Copy != nil && s.Copy.FromStage != nil ||
		s.Run != nil && slices.ContainsFunc(s.Run.Mounts, func(m Mount) bool { return m.FromStage != nil })
}

// lateMount is the mistake of a mount from a stage below.
func lateMount(run *dockerfile.Run, number int) string {
	to := ""
	list, err := run.Mounts(func(w string) (string, error) { return w, nil })
	if err == nil {
		to = list[number].Target
	}
	return fmt.Sprintf("cannot mount from stage %q to %q, stage needs to be defined before current command", run.MountsFrom()[number], to)
}
