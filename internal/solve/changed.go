package solve

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/store"
)

// What a record says of where its step stood. None of it is in the key.
const (
	extraOrigin = "origin" // the Dockerfile
	extraPlace  = "place"  // stage and number in it
	extraUnder  = "under"  // key of the step below, or digest of the base image
	extraBase   = "base"   // name of the base image, when there is no step below
)

// whereabouts is what a record keeps so that a later failure of the same step
// can be explained.
func (r *run) whereabouts(s *plan.Step) map[string]string {
	out := map[string]string{extraOrigin: r.Origin, extraPlace: place(s)}
	switch {
	case s.Below.Step != nil:
		r.mu.Lock()
		if d := r.result.Steps[s.Below.Step]; d != nil {
			out[extraUnder] = d.Key.Hex()
		}
		r.mu.Unlock()
	case s.Below.Image != nil:
		out[extraUnder], out[extraBase] = r.Bases[*s.Below.Image].ID.Hex(), s.Below.Image.Name
	}
	return out
}

// place is a step's stage and its number among the stage's steps.
func place(s *plan.Step) string {
	n := 0
	for _, l := range s.Stage.Lines {
		if l.Step != nil {
			n++
		}
		if l.Step == s {
			break
		}
	}
	return s.Stage.Display + " " + strconv.Itoa(n)
}

const (
	maxChanges = 8   // how many are told
	maxValue   = 100 // bytes of a value that are told
)

// changed finds the run of the same step of the same Dockerfile that last
// worked, and says what was different. Without one the time is zero. Only a
// failure pays for it.
func (r *run) changed(s *plan.Step, fields []digest.Field) (worked time.Time, changes []string) {
	old := r.lastGood(s)
	if old == nil {
		return time.Time{}, nil
	}
	changes = r.compare("", s, s.Line.Text, fields, old)
	if len(changes) == 0 {
		changes = []string{"nothing that is in its key: the network, the time, a cache, a secret or chance made the difference"}
	}
	return old.Created, few(changes)
}

// few are the first of them, and how many more there are.
func few(changes []string) []string {
	if n := len(changes) - maxChanges; n > 0 {
		return append(changes[:maxChanges], fmt.Sprintf("and %d more", n))
	}
	return changes
}

// lastGood is the record of a step like s: in the same place of the same
// Dockerfile if there is one, else with the same text in any.
func (r *run) lastGood(s *plan.Step) *store.Record {
	var best *store.Record
	rank := 0
	at := place(s)
	used := func(rec *store.Record) time.Time {
		if rec.Used.After(rec.Created) {
			return rec.Used
		}
		return rec.Created
	}
	// A store that cannot be read explains nothing, and the failure is told.
	_ = r.Store.Records(func(key digest.Digest, rec *store.Record) bool {
		n := 0
		// Those of shared caches have no fields; those of other scopes are not found.
		if rec.Kind != kind(s) || len(rec.Fields) == 0 || key != r.Scope.Key(rec.StepKey(key)) {
			return true
		}
		same := rec.Text == s.Line.Text
		if rec.Extra[extraOrigin] == r.Origin && (same || rec.Extra[extraPlace] == at) {
			n = 2
		}
		if same {
			n++
		}
		if n > rank || n > 0 && n == rank && used(rec).After(used(best)) {
			best, rank = rec, n
		}
		return true
	})
	return best
}

// compare says in which fields a step differs from its record. prefix is set
// for a step below the one that failed.
func (r *run) compare(prefix string, s *plan.Step, text string, fields []digest.Field, old *store.Record) []string {
	c := comparison{step: s, is: group(fields), was: group(old.Fields)}
	if old.Text != text {
		c.say("the instruction: was %s", brief(old.Text))
	}
	if old.Kind != kind(s) {
		return c.prefixed(prefix)
	}
	c.environment()
	c.command(old.Text == text)
	c.plain()
	c.mounts()
	if c.differ("content") {
		c.say("the files copied%s", r.names(s, old))
	}
	out := c.prefixed(prefix)
	if c.differ("below") {
		out = append(out, r.compareBelow(s, old)...)
	}
	return out
}

// names lists the files in which the layer of s differs from that of old, where
// both are there.
func (r *run) names(s *plan.Step, old *store.Record) string {
	r.mu.Lock()
	d := r.result.Steps[s]
	r.mu.Unlock()
	if d == nil || r.Changes == nil {
		return ""
	}
	const most = 5
	list := r.Changes(old.Layer, d.Layer)
	if len(list) == 0 {
		return ""
	}
	more := ""
	if n := len(list) - most; n > 0 {
		list, more = list[:most], fmt.Sprintf(" and %d more", n)
	}
	return ": " + strings.Join(list, ", ") + more
}

// compareBelow finds what is different in what s is built on.
func (r *run) compareBelow(s *plan.Step, old *store.Record) []string {
	if s.Below.Step == nil {
		name := "nothing"
		if s.Below.Image != nil {
			name = s.Below.Image.Name
		}
		if was := old.Extra[extraBase]; was != "" && was != name {
			return []string{fmt.Sprintf("the base image: %s was %s", name, was)}
		}
		return []string{fmt.Sprintf("the base image: %s is another one", name)}
	}
	below := s.Below.Step
	r.mu.Lock()
	d := r.result.Steps[below]
	r.mu.Unlock()
	prefix := fmt.Sprintf("a layer below: %s: ", address.Redact(below.Line.Label))
	under, err := digest.ParseHex(old.Extra[extraUnder])
	if err != nil || d == nil {
		return []string{prefix + "it is another one"}
	}
	if under == d.Key {
		return []string{prefix + "it ran again"}
	}
	is, was := r.known(d.Key), r.known(under)
	if is == nil || was == nil || len(is.Fields) == 0 || len(was.Fields) == 0 {
		return []string{prefix + "it is another one"}
	}
	if out := r.compare(prefix, below, below.Line.Text, is.Fields, was); len(out) > 0 {
		return out
	}
	return []string{prefix + "it is another one"}
}

// known is the record of key, nil without one. Its layer need not be there.
func (r *run) known(key digest.Digest) (found *store.Record) {
	key = r.Scope.Key(key)
	_ = r.Store.Records(func(k digest.Digest, rec *store.Record) bool {
		if k == key {
			found = rec
		}
		return found == nil
	})
	return found
}

// comparison is one step now and when it last worked.
type comparison struct {
	step    *plan.Step
	is, was map[string][]string
	out     []string
}

// group gathers the values of each label, in order, and those of a list under
// its name; see digest.Key.List.
func group(fields []digest.Field) map[string][]string {
	lists := []string{"args", "env", "hosts", "sources", "excludes"}
	out := map[string][]string{}
	for _, f := range fields {
		label, n, ok := strings.Cut(f.Label, ".")
		switch {
		case slices.Contains(lists, f.Label): // how many there are
		case ok && slices.Contains(lists, label) && strings.Trim(n, "0123456789") == "":
			out[label] = append(out[label], f.Value)
		default:
			out[f.Label] = append(out[f.Label], f.Value)
		}
	}
	return out
}

func (c *comparison) differ(label string) bool { return !slices.Equal(c.is[label], c.was[label]) }

func (c *comparison) say(format string, args ...any) {
	c.out = append(c.out, fmt.Sprintf(format, args...))
}

func (c *comparison) prefixed(prefix string) []string {
	for i := range c.out {
		c.out[i] = prefix + c.out[i]
	}
	return c.out
}

// environment tells variables. The values of those that the image has are told;
// a build argument is not for every log.
func (c *comparison) environment() {
	was := map[string]string{}
	for _, kv := range c.was["env"] {
		k, v, _ := strings.Cut(kv, "=")
		was[k] = v
	}
	image := c.imageVars()
	for _, kv := range c.is["env"] {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			continue
		}
		old, had := was[k]
		delete(was, k)
		public := image[k]
		switch {
		case had && old == v:
		case !public && had:
			c.say("the build argument %s: has another value", k)
		case !public:
			c.say("the build argument %s: is new", k)
		case had:
			c.say("the environment: %s was %s", brief(kv), brief(k+"="+old))
		default:
			c.say("the environment: %s is new", brief(kv))
		}
	}
	for _, kv := range c.was["env"] {
		k, _, ok := strings.Cut(kv, "=")
		if _, gone := was[k]; ok && gone {
			c.say("the environment: %s is gone", k)
		}
	}
}

// imageVars are the names of the variables that the image has at the step. An
// ENV that comes later may give one another value.
func (c *comparison) imageVars() map[string]bool {
	names := map[string]bool{}
	env := c.step.Stage.Config.Config.Env
	if c.step.Run != nil {
		env = env[:min(c.step.Run.Public, len(env))]
	}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		names[name] = true
	}
	return names
}

// command tells the words of a RUN where the text of the line does not.
func (c *comparison) command(sameText bool) {
	if c.differ("args") && sameText {
		c.say("the command: was %s", brief(strings.Join(c.was["args"], " ")))
	}
	if c.differ("script.content") {
		c.say("the here-document")
	}
	if c.differ("heredoc.content") || c.differ("heredoc.name") {
		c.say("a here-document")
	}
}

// plain tells fields that have one value and a name for people.
func (c *comparison) plain() {
	for _, f := range [][2]string{
		{"dir", "the directory"}, {"user", "the user"}, {"network", "the network"}, {"hosts", "names of hosts"},
		{"platform", "the platform"}, {"hostname", "the host name"}, {"insecure", "--security=insecure"},
		{"ulimit", "limits"}, {"shm", "the size of /dev/shm"}, {"cgroup", "the control group"},
		{"dest", "the destination"}, {"sources", "the sources"}, {"excludes", "what is left out"}, {"path", "the path"},
		{"chown", "the owner"}, {"chmod", "the mode"}, {"epoch", "SOURCE_DATE_EPOCH"}, {"context", "where it copies from"},
	} {
		if c.differ(f[0]) {
			c.say("%s: %s was %s", f[1], shown(c.is[f[0]]), shown(c.was[f[0]]))
		}
	}
}

// mounts tells what a RUN sees beside its layers.
func (c *comparison) mounts() {
	if c.differ("mount") || c.differ("mount.target") || c.differ("mount.readonly") || c.differ("mount.id") ||
		c.differ("mount.env") || c.differ("mount.owner") || c.differ("mount.size") || c.differ("mount.required") {
		c.say("the mounts: %s was %s", shown(c.is["mount.target"]), shown(c.was["mount.target"]))
		return
	}
	n := 0
	if c.step.Run == nil {
		return
	}
	is, was := c.is["mount.content"], c.was["mount.content"]
	for i := range c.step.Run.Mounts {
		m := &c.step.Run.Mounts[i]
		if !m.Reads() {
			continue
		}
		if n < len(is) && n < len(was) && is[n] != was[n] {
			c.say("the files mounted at %s", m.Target)
		}
		n++
	}
}

// shown is the values of a field.
func shown(values []string) string {
	text := strings.Join(values, " ")
	if text == "" {
		return "none"
	}
	return brief(text)
}

// brief is a value without what an address may have of credentials, and not too
// long.
func brief(text string) string {
	text = address.Redact(strings.Join(strings.Fields(text), " "))
	if len(text) > maxValue {
		text = strings.ToValidUTF8(text[:maxValue], "") + "…"
	}
	return text
}
