package dockerfile

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// Mount is one --mount of RUN with every variable replaced. Which fields may
// be set with which type has been checked.
type Mount struct {
	Type     string // bind, cache, tmpfs, secret or ssh
	From     string
	Source   string
	Target   string
	ReadOnly bool
	Size     int64  // of a tmpfs; 0 is no limit
	ID       string // of a cache, a secret or an agent
	Sharing  string // of a cache: "", shared, private or locked
	Required bool
	Env      *string // of a secret: the variable that has its value
	Mode     *uint64
	UID, GID *uint64
}

// Device is one --device of RUN.
type Device struct {
	Name     string
	Required bool
}

// mounts are the --mount of one RUN as they were written.
type mounts struct{ run *instructions.RunCommand }

// MountsFrom is what the mounts name in from=, in order; "" for those that
// name nothing. No variable is allowed there, so it is known before any is.
func (r *Run) MountsFrom() []string {
	if r.mounts.run == nil {
		return nil
	}
	var out []string
	for _, m := range instructions.GetMounts(r.mounts.run) {
		out = append(out, m.From)
	}
	return out
}

// Mounts returns the mounts, each value expanded by word. An error of word
// comes back as it is, others are mistakes without a position.
func (r *Run) Mounts(word func(string) (string, error)) ([]Mount, error) {
	if r.mounts.run == nil {
		return nil, nil
	}
	var failed error
	err := r.mounts.run.Expand(func(w string) (string, error) {
		out, err := word(w)
		if err != nil {
			failed = err
		}
		return out, err
	})
	if failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, mountMistake(err)
	}
	var out []Mount
	for _, m := range instructions.GetMounts(r.mounts.run) {
		out = append(out, Mount{
			Type: string(m.Type), From: m.From, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, Size: m.SizeLimit,
			ID: m.CacheID, Sharing: string(m.CacheSharing), Required: m.Required, Env: m.Env, Mode: m.Mode, UID: m.UID, GID: m.GID,
		})
	}
	return out, nil
}

func (m mounts) count() int {
	if m.run == nil {
		return 0
	}
	return len(instructions.GetMounts(m.run))
}

// runFlags takes what the flags of a RUN say.
func runFlags(c *instructions.RunCommand, run *Run) {
	run.Network, run.Insecure = instructions.GetNetwork(c), instructions.GetSecurity(c) == instructions.SecurityInsecure
	if len(instructions.GetMounts(c)) > 0 {
		run.mounts = mounts{c}
	}
	for _, d := range instructions.GetDevices(c) {
		run.Devices = append(run.Devices, Device{d.Name, d.Required})
	}
}

func mountMistake(err error) *Error {
	msg := plainly(err)
	return &Error{Msg: msg, Hint: mountHint(msg)}
}

func mountKeys() []string {
	return []string{
		"type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "mode", "uid", "gid", "env",
		"src", "dst", "destination", "ro", "rw", "readwrite",
	}
}

// mountHint is the way out of a mistake in a --mount; "" for all others.
func mountHint(msg string) string {
	for _, h := range []struct {
		prefix  string
		options []string
		all     string
	}{
		{"unsupported mount type ", []string{"bind", "cache", "tmpfs", "secret", "ssh"}, "the types are bind, cache, tmpfs, secret and ssh"},
		{"unsupported sharing value ", []string{"shared", "private", "locked"}, "write sharing=shared, private or locked"},
		{"unexpected key '", mountKeys(), "the keys are " + strings.Join(mountKeys()[:13], ", ")},
	} {
		rest, ok := strings.CutPrefix(msg, h.prefix)
		if !ok || strings.Contains(msg, "for mount type") {
			continue
		}
		got := strings.FieldsFunc(rest, func(r rune) bool { return r == '\'' || r == '"' })
		if len(got) > 0 {
			if s := Suggest(got[0], h.options); s != "" {
				return "did you mean " + s + "?"
			}
		}
		return h.all
	}
	for _, h := range []struct{ in, hint string }{
		{"for mount type", "required is for secret and ssh, size for tmpfs, and type= has to stand before them: --mount=type=secret,id=token,required"},
		{"one of source, target required", "name it: --mount=type=secret,id=token, which is given with --secret id=token,src=FILE"},
		{"both source and id can't be set", "source is another word for id here: keep one"},
		{"should not have a from", "a secret comes from the command line: --secret id=token,src=FILE"},
		{"should not define sharing", "sharing is for type=cache; leave it out"},
		{"invalid cache sharing set", "sharing is for type=cache; leave it out"},
		{"not allowed for", "mode, uid and gid are for cache, secret and ssh; leave it out"},
		{"doesn't support variable expansion", "write ARG and FROM image AS name above, and here from=name"},
		{"failed to parse csv mounts", "write KEY=VALUE,KEY=VALUE…, for example --mount=type=cache,target=/root/.cache; a value with a comma needs quotes"},
		{"must be a key=value pair", "ro, rw and required may stand alone, all other keys need a value"},
		{"invalid value for size", "write bytes, or 10m"},
		{"for mode", "write it in octal: mode=0400"},
		{"for uid", "write the user's number"},
		{"for gid", "write the group's number"},
		{"invalid value for", "write true or false"},
	} {
		if strings.Contains(msg, h.in) {
			return h.hint
		}
	}
	return ""
}

// deviceHint is the way out of a mistake in a --device. Mistakes in the fields of
// a --mount are found later, when its variables are known.
func deviceHint(msg string) string {
	const form = "write --device=vendor.com/class=name, with ,required behind it if the step cannot do without"
	for _, in := range []string{"csv devices", "device name", "unexpected key '", "must be a key=value pair", "invalid value for required"} {
		if strings.Contains(msg, in) {
			return form
		}
	}
	return ""
}
