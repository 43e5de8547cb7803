package suite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// An Outcome is all that a build of a case is compared by. It holds nothing
// that belongs to this run, to this machine or to a base image alone.
type Outcome struct {
	Case    string          `json:"case"` // Case.Sum
	Peer    string          `json:"peer"`
	Date    string          `json:"date"`
	Error   string          `json:"error,omitempty"` // "" if it builds
	Lint    []string        `json:"lint,omitempty"`  // "LINE RULE: MESSAGE"
	Config  json.RawMessage `json:"config,omitempty"`
	Layers  [][]string      `json:"layers,omitempty"`  // what each layer above the base names
	Files   map[string]File `json:"files,omitempty"`   // that layers above the base wrote
	Deleted []string        `json:"deleted,omitempty"` // of the base
}

// A File is one path of the image's file system.
type File struct {
	Kind   string            `json:"kind"`
	Mode   string            `json:"mode"`
	Owner  string            `json:"owner"`
	Mtime  string            `json:"mtime"` // "now" if it is the time of the build
	Text   *string           `json:"text,omitempty"`
	Bytes  string            `json:"bytes,omitempty"` // size and digest, if it is not a short text
	Target string            `json:"target,omitempty"`
	Device string            `json:"device,omitempty"`
	Names  string            `json:"names,omitempty"` // all hard links, if more than one
	Xattrs map[string]string `json:"xattrs,omitempty"`
}

// Describe makes the outcome of a build that left an image. Times from began on
// are "now".
func Describe(c *Case, m *Image, bases *Bases, began time.Time, lint []string) (*Outcome, error) {
	config, err := describeConfig(m.config, began)
	if err != nil {
		return nil, err
	}
	o := &Outcome{Case: c.Sum, Lint: lint, Config: json.RawMessage(c.Blank(string(config))), Files: map[string]File{}}
	n := bases.below(m)
	base, err := merge(m.layers[:n])
	if err != nil {
		return nil, err
	}
	all, err := merge(m.layers)
	if err != nil {
		return nil, err
	}
	for name := range base {
		// Of a directory that is gone, what was in it needs no mention.
		if parent := path.Dir(name); all[name] == nil && (base[parent] == nil || all[parent] != nil) {
			o.Deleted = append(o.Deleted, name)
		}
	}
	slices.Sort(o.Deleted)
	links := hardLinks(all)
	for _, layer := range m.layers[n:] {
		o.Layers = append(o.Layers, layerNames(layer))
		for _, e := range layer {
			if node := all[e.name]; node != nil {
				f := describeFile(c, node, bases, began)
				f.Names = links[e.name]
				o.Files[e.name] = f
			}
		}
	}
	return o, nil
}

// Failed makes the outcome of a build that failed.
func Failed(c *Case, text string, lint []string) *Outcome {
	return &Outcome{Case: c.Sum, Error: c.Blank(text), Lint: lint}
}

func describeFile(c *Case, n *node, bases *Bases, began time.Time) File {
	f := File{
		Kind: n.kind, Mode: fmt.Sprintf("%04o", n.mode), Owner: fmt.Sprintf("%d:%d", n.uid, n.gid), Mtime: showTime(n.mtime, began),
		Target: c.Blank(n.target), Device: n.device,
	}
	if len(n.xattrs) > 0 {
		f.Xattrs = maps.Clone(n.xattrs)
		for k, v := range f.Xattrs {
			f.Xattrs[k] = fmt.Sprintf("%q", v)
		}
	}
	if n.kind != "file" {
		return f
	}
	if of := bases.contents[n.sha256]; of != "" {
		f.Bytes = "those of " + of
	} else if n.isText {
		text := c.blankText(n.text)
		f.Text = &text
	} else {
		f.Bytes = fmt.Sprintf("%d, sha256 %.16s", n.size, n.sha256)
	}
	return f
}

func showTime(seconds int64, began time.Time) string {
	if seconds >= began.Unix() {
		return "now"
	}
	return time.Unix(seconds, 0).UTC().Format(time.RFC3339)
}

// layerNames lists a layer's names in order, deletions among them.
func layerNames(layer []entry) []string {
	list := []string{}
	for _, e := range layer {
		list = append(list, e.name)
	}
	slices.Sort(list)
	return list
}

// ReadOutcome reads a recorded outcome.
func ReadOutcome(name string) (*Outcome, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	o := &Outcome{}
	if err := json.Unmarshal(text, o); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return o, nil
}

// Write writes an outcome as JSON with one fact a line, so that two of them can
// be read with diff.
func (o *Outcome) Write(name string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n \"case\": %s,\n \"peer\": %s,\n \"date\": %s", compact(o.Case), compact(o.Peer), compact(o.Date))
	if o.Error != "" {
		fmt.Fprintf(&b, ",\n \"error\": %s", compact(o.Error))
	}
	lines(&b, "lint", "[]", o.Lint, compact[string])
	if o.Config != nil {
		b.WriteString(",\n \"config\": ")
		if err := spread(&b, o.Config, 1); err != nil {
			return err
		}
	}
	lines(&b, "layers", "[]", o.Layers, compact[[]string])
	lines(&b, "files", "{}", slices.Sorted(maps.Keys(o.Files)), func(name string) string { return compact(name) + ": " + compact(o.Files[name]) })
	lines(&b, "deleted", "[]", o.Deleted, compact[string])
	b.WriteString("\n}\n")
	return os.WriteFile(name, b.Bytes(), 0o644)
}

func lines[T any](b *bytes.Buffer, name, brackets string, list []T, show func(T) string) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, ",\n %q: %c", name, brackets[0])
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n  " + show(v))
	}
	fmt.Fprintf(b, "\n %c", brackets[1])
}

func compact[T any](v T) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprintf("%q", err) // none of these types can fail
	}
	return strings.TrimSuffix(b.String(), "\n")
}
