package plan

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/pattern"
)

// joinDir is a WORKDIR: relative to the one before it. An absolute one stays
// as it was written, because it goes into the config.
func joinDir(current, dir string) string {
	if current == "" {
		current = "/"
	}
	if !path.IsAbs(current) {
		current = path.Join("/", current)
	}
	switch {
	case dir == "":
		return current
	case path.IsAbs(dir):
		return dir
	}
	return path.Join(current, dir)
}

// dir is the current directory of steps.
func (st *state) dir() string { return path.Join("/", st.c.Config.WorkingDir) }

func (st *state) workdir(c *dockerfile.Workdir) {
	dir, ok := st.word(c.Path)
	if !ok {
		return
	}
	if !st.s.workdirSet && !path.IsAbs(dir) {
		st.report(dockerfile.WorkdirRelativePath(dir))
	}
	st.s.workdirSet = true
	dir = joinDir(st.c.Config.WorkingDir, dir)
	st.c.Config.WorkingDir = dir
	layer := st.dir() != "/"
	if layer {
		user := st.c.Config.User
		if (st.out.Root == Root{}) && copying.NamesUser(user) {
			st.fail(fmt.Sprintf("USER %s: there is no /etc/passwd yet to look names up in, and the directory is to be the user's", user),
				"write numbers, for example USER 1000:1000, or copy an /etc/passwd first")
			return
		}
		st.step(&Step{Workdir: &Workdir{Path: st.dir(), User: user}}, st.in.Text, false)
	}
	st.commit("WORKDIR "+dir, layer)
}

func (st *state) run(c *dockerfile.Run) {
	mounts, ok := st.mounts(c)
	if !st.entitled(c) || !ok {
		return
	}
	run := &Run{
		Env: st.agentEnv(st.vars.List(), mounts), HiddenEnv: st.hiddenEnv(), Public: len(st.c.Config.Env), Dir: st.dir(), User: st.c.Config.User,
		Network: st.network(c), Hosts: st.p.req.Hosts, Platform: st.s.platform, Mounts: mounts, Insecure: c.Insecure,
		Hostname: cmp.Or(st.p.req.Args["BUILDKIT_SANDBOX_HOSTNAME"], DefaultHostname), Limits: st.p.req.Limits,
	}
	words, title := c.Words, st.in.Text
	if c.Script != nil {
		title += fmt.Sprintf(" (%s)", summary(c.Script.Content))
		if strings.HasPrefix(c.Script.Content, "#!") {
			run.Script = &Script{Path: path.Join("/dev/pipes", c.Script.Name), Content: c.Script.Content}
			words.Args = []string{run.Script.Path}
		}
	}
	run.Args = st.commandLine(words)
	text := "RUN " + strings.Join(append(st.argsInScope(), run.Args...), " ") + " # buildkit"
	if err := st.p.x.Spend(len(text) + 32*len(run.Env)); err != nil {
		st.fail(err.Error(), expansionHint(err))
		return
	}
	vars := st.vars
	st.vars = st.masked(mounts)
	st.step(&Step{Run: run}, title, true)
	st.vars = vars
	st.commit(text, true, append(run.said(), run.Network)...)
}

// network is the step's own mode, or the build's if it does not say.
func (st *state) network(c *dockerfile.Run) string {
	if c.Network != "default" || st.p.req.Network == "" {
		return c.Network
	}
	return st.p.req.Network
}

// argsInScope is how the history of RUN tells its build arguments.
func (st *state) argsInScope() []string {
	names := st.s.args.Keys()
	if len(names) == 0 {
		return nil
	}
	out := []string{fmt.Sprintf("|%d", len(names))}
	for _, name := range names {
		v, _ := st.vars.Get(name)
		out = append(out, name+"="+v)
	}
	return out
}

// hiddenEnv leaves out the proxies that an ARG has made part of Env.
func (st *state) hiddenEnv() []string {
	var out []string
	for _, kv := range st.p.proxies() {
		if name, v, _ := strings.Cut(kv, "="); !st.has(name, v) {
			out = append(out, kv)
		}
	}
	return out
}

func (st *state) has(name, value string) bool {
	v, ok := st.vars.Get(name)
	return ok && v == value
}

// summary is the first line of a heredoc.
func summary(body string) string {
	first, _, more := strings.Cut(strings.TrimSpace(strings.ReplaceAll(body, "\r\n", "\n")), "\n")
	if more {
		first += "..."
	}
	return first
}

func (st *state) copy(c *dockerfile.Copy) {
	// In the reference's order, so that its warnings come in that order too.
	chown, ok1 := st.word(c.Chown)
	chmod, ok2 := st.word(c.Chmod)
	checksum, ok6 := st.word(c.Checksum)
	sources, ok3 := st.words(c.Sources)
	dest, ok4 := st.word(c.Dest)
	heredocs, ok5 := st.heredocs(c)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !ok6 {
		return
	}
	cp := &Copy{
		Unpack: c.Add && (c.Unpack == nil || *c.Unpack), UnpackRemote: c.Unpack != nil && *c.Unpack,
		Parents: c.Parents, Excludes: c.Excludes, Heredocs: heredocs,
		Dest: st.dest(dest), Chown: chown, Chmod: chmod, FromText: c.From,
		Link: c.Link && chmod == "", // the reference does so, and does not say it
	}
	remotes, local, ok := st.remotes(c, sources, checksum)
	if !ok || !st.copyFlags(cp) {
		return
	}
	cp.Remotes = remotes
	st.lintIgnored(c, sources)
	for _, s := range local {
		if !c.Parents {
			cp.Sources = append(cp.Sources, path.Join("/", s))
			continue
		}
		s = copying.PathWithParents(s)
		if _, include := copying.SplitParents(s); !st.goodPatterns("--parents", []string{include}) {
			return
		}
		cp.Sources = append(cp.Sources, s)
	}
	if !st.copyFrom(cp) {
		return
	}
	text := copyHistory(c, chown, chmod, sources, heredocs, dest)
	said := slices.Concat([]string{cp.Dest, chown, chmod, c.From}, cp.Sources)
	said = append(said, cp.Excludes...)
	for i := range remotes {
		said = append(said, remotes[i].String())
	}
	for _, h := range heredocs {
		said = append(said, h.Name, h.Content)
	}
	st.step(&Step{Copy: cp}, st.in.Text, false)
	st.commit(text, true, said...)
}

// copyFlags refuses values of flags that nothing can make good.
func (st *state) copyFlags(cp *Copy) bool {
	if err := copying.CheckMode(cp.Chmod); err != nil {
		st.fail(err.Error(), "write --chmod=755 or --chmod=u=rwX,go=rX")
		return false
	}
	if copying.NamesUser(cp.Chown) && !st.goodOwner(cp) {
		return false
	}
	return st.goodPatterns("--exclude", cp.Excludes)
}

// goodOwner refuses names where there is certainly no table of them.
func (st *state) goodOwner(cp *Copy) bool {
	switch {
	case cp.Link:
		st.fail(fmt.Sprintf("--chown=%s: with --link there is no /etc/passwd to look names up in", cp.Chown),
			"write numbers, for example --chown=1000:1000, or leave --link out")
	case st.out.Root == Root{}:
		st.fail(fmt.Sprintf("--chown=%s: there is no /etc/passwd yet to look names up in", cp.Chown),
			"write numbers, for example --chown=1000:1000, or copy an /etc/passwd first")
	default:
		return true
	}
	return false
}

func (st *state) goodPatterns(flag string, patterns []string) bool {
	_, err := pattern.New(patterns)
	var bad *pattern.Error
	if errors.As(err, &bad) {
		st.fail(flag+": "+bad.Error(), bad.Hint)
	}
	return err == nil
}

// copyFrom fills in where the files come from.
func (st *state) copyFrom(cp *Copy) bool {
	from := st.s.copies[st.in]
	if from == nil {
		return true
	}
	if !st.known(from) {
		return false
	}
	cp.From = from.root()
	switch {
	case from.image != nil:
		cp.Dir = st.p.req.Images[*from.image].Config.Config.WorkingDir
	case from.stage != nil:
		cp.FromStage = from.stage.out
		cp.Dir = from.stage.out.Config.Config.WorkingDir
	}
	return true
}

// known reports whether it is known what from= or --from names; mistakes in it
// are noted already.
func (st *state) known(from *source) bool {
	if from.image != nil && !from.bad {
		st.p.lintPlatformOf(from.image, from.given, st.in.Pos)
	}
	return !from.bad && (from.stage == nil || from.stage.out != nil)
}

// root is the file system that a known source has.
func (s *source) root() *Root {
	if s.stage != nil {
		root := s.stage.out.Root
		return &root
	}
	return &Root{Image: s.image, Context: s.context}
}

// lintIgnored tells sources that the ignore file leaves out of the context.
func (st *state) lintIgnored(c *dockerfile.Copy, sources []string) {
	if st.p.req.Ignored == nil || c.From != "" {
		return
	}
	for _, s := range sources {
		if address.KindOf(s) == address.Path && st.p.req.Ignored(s) {
			st.report(dockerfile.CopyIgnoredFile(c.Add, path.Clean(s)))
		}
	}
}

func (st *state) heredocs(c *dockerfile.Copy) ([]Heredoc, bool) {
	var out []Heredoc
	for _, h := range c.Heredocs {
		content := h.Content
		if h.Expand {
			body, err := st.p.x.Body(content, st.vars)
			text, ok := st.expanded(body, err)
			if !ok {
				return nil, false
			}
			content = text
		}
		out = append(out, Heredoc{Name: h.Name, Content: content})
	}
	return out, true
}

// dest is a destination as an absolute path; "/" at the end means a folder.
func (st *state) dest(dest string) string {
	folder := dest == "" || dest == "." || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	out := path.Join(st.dir(), dest)
	if path.IsAbs(dest) {
		out = path.Clean(dest)
	}
	if folder && out != "/" {
		out += "/"
	}
	return out
}

func copyHistory(c *dockerfile.Copy, chown, chmod string, sources []string, heredocs []Heredoc, dest string) string {
	text := "COPY"
	if c.Add {
		text = "ADD"
	}
	if c.Parents {
		text += " --parents"
	}
	if chown != "" {
		text += " --chown=" + chown
	}
	if chmod != "" {
		text += " --chmod=" + chmod
	}
	for _, s := range sources {
		text += " " + address.Redact(s)
	}
	for _, h := range heredocs {
		text += " <<" + h.Name
	}
	return text + " " + dest + " # buildkit"
}
