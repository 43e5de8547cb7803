package layer

import (
	"os"
	"path/filepath"
	"testing"
)

func TestALayerIsEqualInAllItsForms(t *testing.T) {
	needRoot(t)
	dir, m := build(t, sample())
	want := dump(t, openTar(t, dir))

	tree := filepath.Join(t.TempDir(), "tree")
	if err := Unpack(t.Context(), dir, "", tree, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	diff(t, "tree", dump(t, openTree(t, tree)), want)

	sealed := filepath.Join(t.TempDir(), "sealed")
	m2, err := Seal(t.Context(), tree, sealed)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "sealed", dump(t, openTar(t, sealed)), want)
	if m2.Size != m.Size || m2.Entries != m.Entries || m2.Implied || m.Implied {
		t.Errorf("sealed as %+v, built as %+v", m2, m)
	}
	if described, err := Describe(t.Context(), tree); err != nil || described != m2 {
		t.Errorf("described as %+v, %v, sealed as %+v", described, err, m2)
	}

	f, err := os.Open(filepath.Join(dir, TarName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	imported := filepath.Join(t.TempDir(), "imported")
	m3, err := Import(t.Context(), imported, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m3 != m {
		t.Errorf("imported as %+v, built as %+v", m3, m)
	}
	diff(t, "imported", dump(t, openTar(t, imported)), want)
	a, _ := os.ReadFile(filepath.Join(dir, IndexName))
	b, _ := os.ReadFile(filepath.Join(imported, IndexName))
	if string(a) != string(b) {
		t.Error("the index of an imported tar differs from that of its builder")
	}

	planted := filepath.Join(t.TempDir(), "tree")
	tb, err := NewTree(planted, UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m4 := addAll(t, tb, sample())
	diff(t, "planted tree", dump(t, openTree(t, planted)), want)
	if m4.Size != m.Size || m4.Entries != m.Entries {
		t.Errorf("planted as %+v, built as %+v", m4, m)
	}
	for _, d := range []string{dir, sealed, imported, filepath.Dir(planted)} {
		if err := Verify(d); err != nil {
			t.Error(err)
		}
	}
}
