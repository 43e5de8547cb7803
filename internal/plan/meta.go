package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/lazyre"
)

// The words of an ARG or ENV name that say that its value is secret, and
// those that say that it is not, after the reference.
var (
	reSecret = lazyre.New(`(?i)(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)`)
	rePublic = lazyre.New(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

func (st *state) lintSecret(keyword, name string) {
	if reSecret.MatchString(name) && !rePublic.MatchString(name) {
		st.report(dockerfile.SecretsUsedInArgOrEnv(keyword, name))
	}
}

// arg evaluates ARG item by item: unlike in ENV, later items see earlier ones.
func (st *state) arg(c *dockerfile.Arg) {
	var said []string
	for _, item := range c.Items {
		st.lintSecret("ARG", item.Key)
		value, set, ok := st.argValue(item)
		if !ok {
			return
		}
		text := item.Key
		if set {
			text += "=" + value
			if isScanArg(item.Key) {
				st.s.scanArgs[item.Key] = value
			} else {
				st.vars.Set(item.Key, value)
			}
		}
		st.s.args.Set(item.Key, "")
		st.define(item, value)
		said = append(said, text)
	}
	st.commit("ARG "+strings.Join(said, " "), false, said...)
}

// argValue is the build argument, else the default, else the global ARG of
// that name.
func (st *state) argValue(item dockerfile.ArgItem) (value string, set, ok bool) {
	if v, given := st.p.req.Args[item.Key]; given {
		return v, true, true
	}
	if item.Default == nil {
		v, global := st.p.global.Get(item.Key)
		return v, global, true
	}
	v, ok := st.word(*item.Default)
	return v, true, ok
}

// pairs expands the pairs of ENV or LABEL, all before any takes effect.
func (st *state) pairs(keyword string, in []dockerfile.Pair) (out []dockerfile.Pair, text string, said []string, ok bool) {
	ok = true
	text = keyword
	for _, kv := range in {
		key, keyOK := st.word(kv.Key)
		value, valueOK := st.word(kv.Value)
		ok = ok && keyOK && valueOK
		if kv.Legacy {
			st.report(dockerfile.LegacyKeyValueFormat(st.in.Keyword))
		}
		if ok && (strings.ContainsRune(key, 0) || keyword == "ENV" && (key == "" || strings.ContainsRune(key, '='))) {
			st.fail(fmt.Sprintf("%s name %q cannot be used", keyword, key), "a name has no = and is not empty")
			ok = false
		}
		out = append(out, dockerfile.Pair{Key: key, Value: value})
		text += " " + key + "=" + value
		said = append(said, key, value)
	}
	return out, text, said, ok
}

func (st *state) env(c *dockerfile.Env) {
	pairs, text, said, ok := st.pairs("ENV", c.Pairs)
	if !ok {
		return
	}
	for _, kv := range pairs {
		st.lintSecret("ENV", kv.Key)
		st.vars.Set(kv.Key, kv.Value)
	}
	st.setEnv(pairs)
	st.commit(text, false, said...)
}

// setEnv replaces variables of the config in place and appends new ones.
func (st *state) setEnv(pairs []dockerfile.Pair) {
	c := &st.c.Config
	at := map[string]int{}
	for i, kv := range slices.Backward(c.Env) {
		name, _, _ := strings.Cut(kv, "=")
		at[name] = i
	}
	for _, kv := range pairs {
		i, ok := at[kv.Key]
		if !ok {
			i = len(c.Env)
			at[kv.Key] = i
			c.Env = append(c.Env, "")
		}
		c.Env[i] = kv.Key + "=" + kv.Value
	}
}

func (st *state) label(c *dockerfile.Label) {
	pairs, text, said, ok := st.pairs("LABEL", c.Pairs)
	if !ok {
		return
	}
	if st.c.Config.Labels == nil {
		st.c.Config.Labels = map[string]string{}
	}
	for _, kv := range pairs {
		st.c.Config.Labels[kv.Key] = kv.Value
	}
	st.commit(text, false, said...)
}

// once warns of an instruction that this one replaces, and remembers this.
func (st *state) once(last **dockerfile.Instruction) {
	if *last != nil {
		// The place is the earlier one's; the comment that can silence it is
		// this one's.
		st.p.lint.Report((*last).Pos, st.in.Check, dockerfile.MultipleInstructionsDisallowed(st.in.Keyword))
	}
	*last = st.in
}

// commandLine is the arguments of CMD, ENTRYPOINT or RUN, with the shell if
// they are in its form.
func (st *state) commandLine(w dockerfile.Words) []string {
	if !w.Shell {
		return slices.Clone(w.Args)
	}
	shell := slices.Clone(st.c.Config.Shell)
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(shell, strings.Join(w.Args, " "))
}

func (st *state) lintShellForm(w dockerfile.Words) {
	if w.Shell && len(st.c.Config.Shell) == 0 && !st.s.unknown {
		st.report(dockerfile.JSONArgsRecommended(st.in.Keyword))
	}
}

func (st *state) setCmd(c *dockerfile.Cmd) {
	st.once(&st.cmd)
	st.lintShellForm(c.Words)
	st.c.Config.Cmd = st.commandLine(c.Words)
	st.c.Config.ArgsEscaped = true
	st.commit(fmt.Sprintf("CMD %q", st.c.Config.Cmd), false, st.c.Config.Cmd...)
}

// setEntrypoint drops a CMD that the base brought along: it was meant for
// another program.
func (st *state) setEntrypoint(c *dockerfile.Entrypoint) {
	st.once(&st.entrypoint)
	st.lintShellForm(c.Words)
	st.c.Config.Entrypoint = st.commandLine(c.Words)
	if len(st.c.Config.Entrypoint) == 0 {
		st.c.Config.Entrypoint = nil
	}
	if st.cmd == nil {
		st.c.Config.Cmd = nil
	}
	st.commit(fmt.Sprintf("ENTRYPOINT %q", st.c.Config.Entrypoint), false, st.c.Config.Entrypoint...)
}

func (st *state) healthcheck(c *dockerfile.Healthcheck) {
	st.once(&st.health)
	check := c.Check
	check.Test = slices.Clone(c.Check.Test)
	st.c.Config.Healthcheck = &check
	text := fmt.Sprintf("HEALTHCHECK %+v", check)
	st.commit(text, false, check.Test...)
}

func (st *state) user(c *dockerfile.User) {
	name, ok := st.word(c.User)
	if !ok {
		return
	}
	st.c.Config.User = name
	st.commit("USER "+name, false)
}

func (st *state) volume(c *dockerfile.Volume) {
	paths, ok := st.words(c.Paths)
	if !ok {
		return
	}
	if slices.Contains(paths, "") {
		st.fail("VOLUME specified can not be an empty string", "give the variable a value, or write the path")
		return
	}
	if st.c.Config.Volumes == nil {
		st.c.Config.Volumes = map[string]struct{}{}
	}
	for _, v := range paths {
		st.c.Config.Volumes[v] = struct{}{}
	}
	st.commit(fmt.Sprintf("VOLUME %v", paths), false, paths...)
}

func (st *state) stopSignal(c *dockerfile.StopSignal) {
	sig, ok := st.word(c.Signal)
	if !ok {
		return
	}
	if !isSignal(sig) {
		st.fail("invalid signal: "+sig, "write a name such as SIGTERM or INT, or a number")
		return
	}
	st.c.Config.StopSignal = sig
	st.commit("STOPSIGNAL "+sig, false)
}

const signals = " ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX "

var reRealTime = lazyre.New(`^(?:RTMIN\+(?:[1-9]|1[0-5])|RTMAX-(?:[1-9]|1[0-4]))$`)

// isSignal reports whether s is a signal of Linux, by name or number.
func isSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n != 0
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	return name != "" && !strings.Contains(name, " ") && strings.Contains(signals, " "+name+" ") || reRealTime.MatchString(name)
}
