package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A difference is one thing that two images have differently. What says which
// thing: a field of the config ("config.Env", "history[2].created_by"), an
// attribute of a file ("/etc mode"), or an entry of a layer ("layer[1] /etc").
type difference struct {
	what, peer, got string
}

func (d difference) String() string {
	return fmt.Sprintf("%s\n\t   peer: %s\n\twhittle: %s", d.what, d.peer, d.got)
}

// compare returns what differs. Times from began on are all "now": builds are
// not made at the same second.
func compare(peer, got *image, began time.Time) ([]difference, error) {
	var out []difference
	a, err := describeConfig(peer.config)
	if err != nil {
		return nil, err
	}
	b, err := describeConfig(got.config)
	if err != nil {
		return nil, err
	}
	out = differ(out, a, b)
	if a, err = describeFiles(peer, began); err != nil {
		return nil, err
	}
	if b, err = describeFiles(got, began); err != nil {
		return nil, err
	}
	out = differ(out, a, b)
	return differ(out, describeLayers(peer), describeLayers(got)), nil
}

const absent = "(none)"

func differ(out []difference, peer, got map[string]string) []difference {
	keys := maps.Clone(peer)
	maps.Copy(keys, got)
	value := func(m map[string]string, key string) string {
		if v, ok := m[key]; ok {
			return v
		}
		return absent
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if a, b := value(peer, key), value(got, key); a != b {
			out = append(out, difference{key, a, b})
		}
	}
	return out
}

// describeConfig flattens a config into field → JSON. Times and diffIDs are
// left out: no two builds have the same ones.
func describeConfig(raw []byte) (map[string]string, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var c map[string]any
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	out := map[string]string{}
	for field, v := range c {
		switch field {
		case "created":
		case "rootfs":
			ids, _ := v.(map[string]any)["diff_ids"].([]any)
			out["layers"] = strconv.Itoa(len(ids))
		case "history":
			list, _ := v.([]any)
			for i, h := range list {
				delete(h.(map[string]any), "created")
				flatten(out, fmt.Sprintf("history[%d]", i), h)
			}
		default:
			flatten(out, field, v)
		}
	}
	return out, nil
}

func flatten(out map[string]string, name string, v any) {
	fields, ok := v.(map[string]any)
	if !ok || len(fields) == 0 {
		b, err := json.Marshal(v)
		if err != nil {
			b = []byte(err.Error())
		}
		out[name] = string(b)
		return
	}
	for k, v := range fields {
		flatten(out, name+"."+k, v)
	}
}

func describeFiles(m *image, began time.Time) (map[string]string, error) {
	files, err := m.files()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, group := range hardLinks(files) {
		out[name+" names"] = group
	}
	for name, n := range files {
		set := func(attribute, value string) {
			if value != "" {
				out[name+" "+attribute] = value
			}
		}
		set("kind", n.kind)
		set("mode", fmt.Sprintf("%04o", n.mode))
		set("owner", fmt.Sprintf("%d:%d", n.uid, n.gid))
		set("target", n.target)
		set("device", n.device)
		set("mtime", showTime(n.mtime, began))
		if n.kind == "file" {
			set("content", fmt.Sprintf("%d bytes, %.16s", n.size, n.sha256))
		}
		for k, v := range n.xattrs {
			set("xattr "+k, strconv.Quote(v))
		}
	}
	return out, nil
}

func showTime(seconds int64, began time.Time) string {
	if seconds >= began.Unix() {
		return "now"
	}
	return time.Unix(seconds, 0).UTC().Format(time.RFC3339)
}

// describeLayers lists each layer's paths, deletions among them.
func describeLayers(m *image) map[string]string {
	out := map[string]string{}
	for i, layer := range m.layers {
		for _, e := range layer {
			key := fmt.Sprintf("layer[%d] %s", i, e.name)
			if out[key] != "" {
				out[key] = "twice"
				continue
			}
			out[key] = "there"
		}
	}
	return out
}

// The comparison itself is tested with images made here.
func TestCompareSeesWhatDiffers(t *testing.T) {
	began := time.Unix(1000, 0)
	file := func(name, sum string) entry {
		return entry{name: name, node: node{kind: "file", mode: 0o644, size: 1, sha256: sum, mtime: 5}}
	}
	dir := func(name string) entry { return entry{name: name, node: node{kind: "directory", mode: 0o755}} }
	changed := func(e entry, change func(*node)) entry {
		change(&e.node)
		return e
	}
	base := []entry{dir("/d"), file("/d/a", "x"), file("/d/b", "y")}
	peer := &image{config: []byte(`{"config":{"Env":["A=1"]},"history":[{"created":"1","created_by":"x"}]}`), layers: [][]entry{base}}
	tests := map[string]struct {
		got  image
		want []string
	}{
		"nothing but a time": {image{config: []byte(`{"config":{"Env":["A=1"]},"history":[{"created":"2","created_by":"x"}]}`), layers: peer.layers}, nil},
		"a field":            {image{config: []byte(`{"config":{"Env":["A=2"]},"history":[{"created_by":"x"}]}`), layers: peer.layers}, []string{"config.Env"}},
		"a history entry":    {image{config: []byte(`{"config":{"Env":["A=1"]},"history":[{"created_by":"z"}]}`), layers: peer.layers}, []string{"history[0].created_by"}},
		"mode, owner, time and content": {image{config: peer.config, layers: [][]entry{{dir("/d"), file("/d/a", "x"),
			changed(file("/d/b", "z"), func(n *node) { n.mode, n.uid, n.mtime = 0o600, 7, 6 })}}},
			[]string{"/d/b content", "/d/b mode", "/d/b mtime", "/d/b owner"}},
		"a time that is now": {image{config: peer.config, layers: [][]entry{{dir("/d"), file("/d/a", "x"),
			changed(file("/d/b", "y"), func(n *node) { n.mtime = 1001 })}}}, []string{"/d/b mtime"}},
		"a hard link": {image{config: peer.config, layers: [][]entry{{dir("/d"), file("/d/a", "x"), {name: "/d/b", link: "/d/a"}}}},
			[]string{"/d/a names", "/d/b content", "/d/b names"}},
		"a deletion": {image{config: peer.config, layers: [][]entry{base, {file("/d/.wh.b", "")}}},
			[]string{"/d/b content", "/d/b kind", "/d/b mode", "/d/b mtime", "/d/b owner", "layer[1] /d/.wh.b"}},
		"a directory made opaque": {image{config: peer.config, layers: [][]entry{base, {dir("/d"), file("/d/a", "x"), file("/d/b", "y"), file("/d/.wh..wh..opq", "")}}},
			[]string{"layer[1] /d", "layer[1] /d/.wh..wh..opq", "layer[1] /d/a", "layer[1] /d/b"}},
		"an xattr and a device": {image{config: peer.config, layers: [][]entry{{dir("/d"), file("/d/a", "x"),
			changed(file("/d/b", "y"), func(n *node) { n.xattrs, n.device = map[string]string{"user.k": "v"}, "1,3" })}}},
			[]string{"/d/b device", "/d/b xattr user.k"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			diffs, err := compare(peer, &test.got, began)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range diffs {
				got = append(got, d.what)
			}
			if strings.Join(got, "; ") != strings.Join(test.want, "; ") {
				t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), strings.Join(test.want, "; "))
			}
		})
	}
}

func TestHardLinksToNothingAreAnError(t *testing.T) {
	m := &image{config: []byte(`{}`), layers: [][]entry{{{name: "/b", link: "/a"}}}}
	if _, err := m.files(); err == nil || !strings.Contains(err.Error(), path.Join("/", "a")) {
		t.Errorf("got %v, want an error that names /a", err)
	}
}
