package cachemount

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// forge writes an export whose tree is these JSON values after its head, and
// whose one pack holds the text "piece".
func (r *rig) forge(files ...string) {
	r.t.Helper()
	f, err := openFolder(r.t.Context(), r.to, true)
	check(r.t, err)
	defer f.close()
	sum := digest.Of([]byte("piece")).Hex()
	text := fmt.Sprintf("{\"format\":1,\"packs\":1,\"files\":%d}\n{\"sums\":[%q],\"sizes\":[5]}\n", len(files), sum) + strings.Join(files, "\n")
	r.seal(f, text, "piece")
}

func (r *rig) seal(f *folder, tree, packed string) {
	r.t.Helper()
	blob, err := f.compress(treeType, strings.NewReader(tree))
	check(r.t, err)
	pack, err := f.compress(packType, strings.NewReader(packed))
	check(r.t, err)
	config, err := f.put(configType, []byte(`{"id":"/cache"}`))
	check(r.t, err)
	b, err := json.Marshal(manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIManifest, Config: config, Layers: []manifest.Descriptor{blob, pack}})
	check(r.t, err)
	desc, err := f.put(manifest.OCIManifest, b)
	check(r.t, err)
	check(r.t, f.commit([]manifest.Descriptor{desc}, map[digest.Digest]bool{desc.Digest: true, config.Digest: true, blob.Digest: true, pack.Digest: true}))
}

const topFolder = `{"path":".","kind":"dir","mode":493,"sec":1}`

func TestAHonestForgeryIsTaken(t *testing.T) {
	r := newRig(t)
	r.forge(topFolder, `{"path":"f","mode":420,"sec":1,"at":[0,0]}`, `{"path":"g","mode":420,"sec":1,"to":"f"}`)
	dir, err := r.unpack()
	check(t, err)
	if b, err := os.ReadFile(filepath.Join(dir, "g")); string(b) != "piecepiece" {
		t.Errorf("%q, %v", b, err)
	}
}

// What is imported may come from anybody: see attacks 11, 12, 35 and 36 for
// the same in layers.
func TestAttack12_AnImportedCacheStaysInItsFolder(t *testing.T) {
	file := `{"path":%q,"mode":420,"sec":1,"at":[0]}`
	for name, list := range map[string][]string{
		"no root":              {fmt.Sprintf(file, "f")},
		"root is a link":       {`{"path":".","kind":"link","mode":511,"sec":1,"to":"/etc"}`},
		"dots":                 {topFolder, fmt.Sprintf(file, "../f")},
		"dots inside":          {topFolder, `{"path":"a","kind":"dir","mode":493,"sec":1}`, fmt.Sprintf(file, "a/../../f")},
		"absolute":             {topFolder, fmt.Sprintf(file, "/f")},
		"empty":                {topFolder, fmt.Sprintf(file, "")},
		"raw dots":             {topFolder, `{"pathraw":"Li4vZg==","mode":420,"sec":1}`},
		"no parent":            {topFolder, fmt.Sprintf(file, "a/f")},
		"through a link":       {topFolder, `{"path":"a","kind":"link","mode":511,"sec":1,"to":"/etc"}`, fmt.Sprintf(file, "a/f")},
		"through a file":       {topFolder, fmt.Sprintf(file, "a"), fmt.Sprintf(file, "a/f")},
		"over a link":          {topFolder, `{"path":"a","kind":"link","mode":511,"sec":1,"to":"/etc/f"}`, fmt.Sprintf(file, "a")},
		"link twice":           {topFolder, fmt.Sprintf(file, "a"), `{"path":"a","kind":"link","mode":511,"sec":1,"to":"/etc"}`},
		"hard link out":        {topFolder, `{"path":"a","mode":420,"sec":1,"to":"../../etc/passwd"}`},
		"hard link to a link":  {topFolder, `{"path":"l","kind":"link","mode":511,"sec":1,"to":"/etc/passwd"}`, `{"path":"a","mode":420,"sec":1,"to":"l"}`},
		"hard link to a dir":   {topFolder, `{"path":"a","mode":420,"sec":1,"to":"."}`},
		"device":               {topFolder, `{"path":"a","kind":"char","mode":420,"sec":1}`},
		"whiteout":             {topFolder, `{"path":"a","kind":"whiteout","mode":0,"sec":1}`},
		"long name":            {topFolder, fmt.Sprintf(file, strings.Repeat("x", 256))},
		"zero byte":            {topFolder, `{"path":"a\u0000b","mode":420,"sec":1}`},
		"link of zero bytes":   {topFolder, `{"path":"a","kind":"link","mode":420,"sec":1,"to":"a\u0000"}`},
		"mode of another kind": {topFolder, `{"path":"a","mode":24996,"sec":1}`},
		"owner of no change":   {topFolder, `{"path":"a","mode":420,"uid":4294967295,"sec":1}`},
		"piece of no pack":     {topFolder, `{"path":"a","mode":420,"sec":1,"at":[1]}`},
		"piece before all":     {topFolder, `{"path":"a","mode":420,"sec":1,"at":[-1]}`},
		"folder with content":  {topFolder, `{"path":"a","kind":"dir","mode":420,"sec":1,"at":[0]}`},
		"more than it says":    {topFolder, fmt.Sprintf(file, "a") + "\n" + fmt.Sprintf(file, "b")},
	} {
		r := newRig(t)
		r.forge(list...)
		_, err := r.unpack()
		var damaged *DamagedError
		if !errors.As(err, &damaged) || damaged.Hint() == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAttack36_AttributesOfOverlaysAreNotImported(t *testing.T) {
	r := newRig(t)
	r.forge(topFolder, `{"path":"a","kind":"dir","mode":493,"sec":1,"xattrs":{"user.overlay.opaque":"eQ==","trusted.overlay.redirect":"Lw==","trusted.x":"eQ==","user.kept":"eQ=="}}`)
	dir, err := r.unpack()
	check(t, err)
	b := make([]byte, 256)
	n, err := unix.Llistxattr(filepath.Join(dir, "a"), b)
	check(t, err)
	if got := string(b[:n]); strings.Contains(got, "overlay") || strings.Contains(got, "trusted") || !strings.Contains(got, "user.kept") {
		t.Errorf("attributes %q", got)
	}
}

func TestAttack25_APackIsWhatTheTreeSaysOrNothing(t *testing.T) {
	sum := digest.Of([]byte("piece")).Hex()
	head := `{"format":1,"packs":1,"files":2}` + "\n"
	files := topFolder + `{"path":"f","mode":420,"sec":1,"at":[0]}`
	for name, c := range map[string]struct{ tree, packed string }{
		"other bytes":  {head + `{"sums":["` + sum + `"],"sizes":[5]}` + files, "peace"},
		"too short":    {head + `{"sums":["` + sum + `"],"sizes":[5]}` + files, "pie"},
		"too long":     {head + `{"sums":["` + sum + `"],"sizes":[5]}` + files, "piece of work"},
		"a bomb":       {head + `{"sums":["` + sum + `"],"sizes":[5]}` + files, strings.Repeat("\x00", 64<<20)},
		"large piece":  {head + `{"sums":["` + sum + `"],"sizes":[2147483647]}` + files, "piece"},
		"large pack":   {head + `{"sums":["` + sum + strings.Repeat(`","`+sum, 9) + `"],"sizes":[4194304` + strings.Repeat(`,4194304`, 9) + `]}` + files, "piece"},
		"no size":      {head + `{"sums":["` + sum + `"],"sizes":[0]}` + files, "piece"},
		"other counts": {head + `{"sums":["` + sum + `"],"sizes":[]}` + files, "piece"},
		"other format": {strings.Replace(head, "1", "2", 1) + `{"sums":["` + sum + `"],"sizes":[5]}` + files, "piece"},
		"many files":   {`{"format":1,"packs":1,"files":2000000000}` + `{"sums":["` + sum + `"],"sizes":[5]}` + files, "piece"},
	} {
		r := newRig(t)
		f, err := openFolder(t.Context(), r.to, true)
		check(t, err)
		r.seal(f, c.tree, c.packed)
		f.close()
		_, err = r.unpack()
		var damaged *DamagedError
		if !errors.As(err, &damaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every byte of an export is checked: one that is flipped anywhere is found, or
// was of no consequence.
func TestAByteThatIsFlippedIsFound(t *testing.T) {
	r := newRig(t)
	r.write("a", random(1, 5000))
	r.write("b", random(2, 3<<20))
	r.export()
	want := describeTree(t, r.dir)
	for name := range r.blobs() {
		p := filepath.Join(r.to, name)
		whole, err := os.ReadFile(p)
		check(t, err)
		for i := range 9 {
			at := i * (len(whole) - 1) / 8
			b := bytes.Clone(whole)
			b[at] ^= 1
			check(t, os.WriteFile(p, b, 0o644))
			dir, err := r.unpack()
			if err == nil && describeTree(t, dir) != want {
				t.Errorf("byte %d of %s: not seen", at, name)
			}
			if err == nil && strings.HasPrefix(name, blobs) {
				t.Errorf("byte %d of %s: not seen, and of no consequence", at, name)
			}
			os.RemoveAll(dir)
		}
		check(t, os.WriteFile(p, whole, 0o644))
	}
}

// What lies in the folder may be links to other places: nothing outside is read
// as a part of it, and nothing outside is written or removed.
func TestAttack19_LinksInAnExportLeadNowhere(t *testing.T) {
	r := newRig(t)
	r.write("f", "mine")
	r.export()
	outside := t.TempDir()
	check(t, os.WriteFile(filepath.Join(outside, "canary"), []byte("x"), 0o644))
	for name := range r.blobs() {
		if !strings.HasPrefix(name, blobs) {
			continue
		}
		p := filepath.Join(r.to, name)
		b, err := os.ReadFile(p)
		check(t, err)
		copied := filepath.Join(outside, filepath.Base(name))
		check(t, os.WriteFile(copied, b, 0o644))
		check(t, os.Remove(p))
		check(t, os.Symlink(copied, p))
	}
	if _, err := r.unpack(); err == nil {
		t.Error("blobs were read through links")
	}
	check(t, os.RemoveAll(filepath.Join(r.to, manifest.BlobsDir)))
	check(t, os.Symlink(outside, filepath.Join(r.to, manifest.BlobsDir)))
	if _, err := Export(t.Context(), r.to, []*Source{r.src}); err == nil {
		t.Error("an export went out through a link")
	}
	names, err := os.ReadDir(outside)
	check(t, err)
	if len(names) == 0 || !strings.Contains(fmt.Sprint(names), "canary") || strings.Contains(fmt.Sprint(names), "sha256") {
		t.Errorf("outside: %v", names)
	}
}

func FuzzTree(f *testing.F) {
	f.Add([]byte(`{"format":1,"packs":0,"files":1}` + topFolder))
	f.Add([]byte(`{"format":1,"packs":0,"files":3}` + topFolder + `{"path":"f","mode":420,"sec":1}{"path":"g","to":"f","mode":0,"sec":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := decodeTree(bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		for i, x := range tr.files {
			if i > 0 && (strings.HasPrefix(x.Path, "/") || strings.Contains("/"+x.Path+"/", "/../") || strings.Contains("/"+x.Path+"/", "//")) {
				t.Errorf("the path %q", x.Path)
			}
		}
		var out bytes.Buffer
		if err := tr.write(&out, map[digest.Digest]int{}); err != nil {
			t.Fatal(err)
		}
		if _, err := decodeTree(&out, nil); err != nil {
			t.Errorf("it is not read again: %v", err)
		}
	})
}
