package suite

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A Difference is one thing that two outcomes have differently. What says which
// thing: a field of the config ("config.Env", "history[2].created_by"), an
// attribute of a file ("/etc mode"), a name in a layer ("layer[1] /etc"), a
// lint warning ("lint 3 UndefinedVar").
type Difference struct {
	What, Peer, Got string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s\n\t   peer: %s\n\twhittle: %s", d.What, d.Peer, d.Got)
}

const absent = "(none)"

// Compare returns what differs. Of errors it compares only that there is one:
// what they say is the case's business.
func Compare(peer, got *Outcome) ([]Difference, error) {
	a, err := peer.facts()
	if err != nil {
		return nil, err
	}
	b, err := got.facts()
	if err != nil {
		return nil, err
	}
	var out []Difference
	keys := maps.Clone(a)
	maps.Copy(keys, b)
	value := func(m map[string]string, key string) string {
		if v, ok := m[key]; ok {
			return v
		}
		return absent
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if x, y := value(a, key), value(b, key); x != y {
			out = append(out, Difference{key, x, y})
		}
	}
	return out, nil
}

// SortLint puts lint warnings in the order of outcomes: by line, each once.
func SortLint(list []string) []string {
	slices.SortFunc(list, func(a, b string) int {
		return cmp.Or(cmp.Compare(lineOf(a), lineOf(b)), strings.Compare(a, b))
	})
	return slices.Compact(list)
}

func lineOf(warning string) int {
	n, _ := strconv.Atoi(strings.SplitN(warning, " ", 2)[0]) // 0 if it has none
	return n
}

// facts flattens an outcome.
func (o *Outcome) facts() (map[string]string, error) {
	out := map[string]string{"result": "builds"}
	if o.Error != "" {
		out["result"] = "fails"
	}
	for _, w := range o.Lint {
		line, text, _ := strings.Cut(w, " ")
		rule, message, _ := strings.Cut(text, ": ")
		key := "lint " + line + " " + rule
		if old := out[key]; old != "" {
			message = old + "; " + message
		}
		out[key] = message
	}
	if o.Config != nil {
		if err := configFacts(out, o.Config); err != nil {
			return nil, err
		}
	}
	for name, f := range o.Files {
		fileFacts(out, name, f)
	}
	for i, layer := range o.Layers {
		out[fmt.Sprintf("layer[%d]", i)] = "there"
		for _, name := range layer {
			key := fmt.Sprintf("layer[%d] %s", i, name)
			if out[key] != "" {
				out[key] = "twice"
				continue
			}
			out[key] = "there"
		}
	}
	for _, name := range o.Deleted {
		out[name+" deleted"] = "yes"
	}
	return out, nil
}

func fileFacts(out map[string]string, name string, f File) {
	set := func(attribute, value string) {
		if value != "" {
			out[name+" "+attribute] = value
		}
	}
	set("kind", f.Kind)
	set("mode", f.Mode)
	set("owner", f.Owner)
	set("mtime", f.Mtime)
	set("target", f.Target)
	set("device", f.Device)
	set("names", f.Names)
	set("content", f.Bytes)
	if f.Text != nil {
		set("content", fmt.Sprintf("%q", *f.Text))
	}
	for k, v := range f.Xattrs {
		set("xattr "+k, v)
	}
}

// configFacts flattens a config into field → JSON as it is written, and the
// order of the fields.
func configFacts(out map[string]string, raw json.RawMessage) error {
	list, err := fieldsOf(raw)
	if err != nil {
		return err
	}
	out["order of fields"] = order(list)
	for _, f := range list {
		switch {
		case f.name == "history" && string(f.value) != "null":
			var entries []json.RawMessage
			if err := json.Unmarshal(f.value, &entries); err != nil {
				return err
			}
			for i, e := range entries {
				if err := objectFacts(out, fmt.Sprintf("history[%d]", i), e); err != nil {
					return err
				}
			}
		case len(f.value) > 0 && f.value[0] == '{':
			if err := objectFacts(out, f.name, f.value); err != nil {
				return err
			}
		default:
			out[f.name] = string(f.value)
		}
	}
	return nil
}

func objectFacts(out map[string]string, name string, raw json.RawMessage) error {
	list, err := fieldsOf(raw)
	if err != nil {
		return err
	}
	out[name+" order of fields"] = order(list)
	for _, f := range list {
		out[name+"."+f.name] = string(f.value)
	}
	return nil
}

func order(list []field) string {
	var names []string
	for _, f := range list {
		names = append(names, f.name)
	}
	return strings.Join(names, " ")
}
