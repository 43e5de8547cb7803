package store

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// populated is a sound store with one of everything.
func populated(t *testing.T) *Store {
	t.Helper()
	s := open(t)
	_, err := s.PutBlobBytes([]byte("blob"))
	check(t, err)
	id := commit(t, s, "layer", "content")
	check(t, s.AddToLayer(id, "index", func(p string) error { return os.WriteFile(p, []byte("i"), 0o600) }))
	check(t, s.PutRecord(named("key"), &Record{Layer: id}))
	check(t, s.PutDoc("tag", "a", []byte(`{}`)))
	check(t, s.PutCacheFile("stat", "/context", []byte("x")))
	_, err = s.Folder("container", "a")
	check(t, err)
	check(t, s.Sync())
	sound(t, s)
	return s
}

func TestFsckFindsAndRepairsEachKindOfDamage(t *testing.T) {
	write := func(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
	tests := map[string]struct {
		damage   func(s *Store) error
		want     string // kind and a part of the text
		repaired bool
	}{
		"a bit of a blob flipped":   {func(s *Store) error { return write(s.blobPath(named("blob")), "bloB") }, "blob: the content has digest", true},
		"a blob cut":                {func(s *Store) error { return os.Truncate(s.blobPath(named("blob")), 1) }, "blob: the content", true},
		"a blob that is a link":     {func(s *Store) error { return relink(s.blobPath(named("blob"))) }, "blob: ", true},
		"a blob under a wrong name": {func(s *Store) error { return write(s.path(blobDir, named("blob").Hex()[:2], "x"), "") }, "name: not a blob", true},
		"a file among the shards":   {func(s *Store) error { return write(s.path(blobDir, "stray"), "") }, "name: not a blob", true},
		"a layer's tar cut":         {func(s *Store) error { return os.Truncate(s.LayerDir(named("layer"))+"/layer.tar", 1) }, "layer: layer.tar has 1 bytes, not 7", true},
		"a layer's tar gone":        {func(s *Store) error { return os.Remove(s.LayerDir(named("layer")) + "/layer.tar") }, "layer: layer.tar is missing", true},
		"a layer never finished":    {func(s *Store) error { return os.Remove(s.LayerDir(named("layer")) + "/" + filesName) }, "layer: it was never finished", true},
		"a layer of before a power cut": {func(s *Store) error { return write(s.LayerDir(named("layer"))+"/.fresh", "another boot") },
			"layer: it was not durable", true},
		"a part of before a power cut": {func(s *Store) error { return write(s.LayerDir(named("layer"))+"/.fresh.index", "another boot") },
			"layer: it was not durable", true},
		"what the caller finds in a layer": {func(s *Store) error { return write(s.LayerDir(named("layer"))+"/layer.tar", "CONTENT") },
			"layer: seen by the caller", true},
		"a layer that is a file":     {func(s *Store) error { return write(s.path(layerDir, "00"), "") }, "name: not a layer", true},
		"a record cut":               {func(s *Store) error { return os.Truncate(s.sharded(recordDir, named("key")), 50) }, "record: damaged", true},
		"a record without its layer": {func(s *Store) error { return os.RemoveAll(s.LayerDir(named("layer"))) }, "record: its layer", true},
		"a record of another key": {func(s *Store) error {
			other := s.sharded(recordDir, named("other"))
			return withParent(other, func() error { return os.Rename(s.sharded(recordDir, named("key")), other) })
		}, "record: damaged in the store: it is the record", true},
		"a document that is not JSON": {func(s *Store) error { return write(s.path(docDir, "tag", "a"), "{") }, "doc: not JSON", true},
		"an empty document":           {func(s *Store) error { return write(s.path(docDir, "tag", "a"), "") }, "doc: empty", true},
		"a document's name not encoded": {func(s *Store) error { return write(s.path(docDir, "tag", "A"), "{}") },
			"name: not a name", false},
		"a file among the kinds": {func(s *Store) error { return write(s.path(docDir, "stray"), "{}") }, "name: not a kind", false},
		"a folder that is a file": {func(s *Store) error { return write(s.path(folderDir, "container", "b"), "") },
			"folder: not a folder", true},
		"a cache file's name": {func(s *Store) error { return write(s.path(cacheDir, "stat", "x.tmp"), "") }, "cache: ", true},
		"a dead process's folder": {func(s *Store) error { return os.Mkdir(s.path(tmpDir, "build-1"), 0o700) },
			"tmp: left by a process", true},
		"a store open to others":     {func(s *Store) error { return os.Chmod(s.Dir(), 0o755) }, "permission: mode 755", true},
		"layers open to others":      {func(s *Store) error { return os.Chmod(s.path(layerDir), 0o711) }, "permission: mode 711", true},
		"a folder missing":           {func(s *Store) error { return os.RemoveAll(s.path(cacheDir)) }, "name: the folder is missing", true},
		"something that is not ours": {func(s *Store) error { return write(s.path("thesis.tex"), "") }, "name: not the store's", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := populated(t)
			o := FsckOptions{VerifyLayer: func(dir string) error {
				if b, err := os.ReadFile(dir + "/layer.tar"); !bytes.Equal(b, []byte("content")) {
					return errors.Join(errors.New("seen by the caller"), err)
				}
				return nil
			}}
			check(t, tt.damage(s))
			found, err := s.Fsck(t.Context(), o)
			check(t, err)
			if len(found) != 1 {
				t.Fatalf("found %v, want one problem", found)
			}
			if got := found[0].Kind + ": " + found[0].Text; !strings.HasPrefix(got, tt.want) || found[0].Repaired {
				t.Errorf("found %s, want %q, not repaired", found[0], tt.want)
			}
			o.Repair = true
			found, err = s.Fsck(t.Context(), o)
			check(t, err)
			if len(found) == 0 || found[0].Repaired != tt.repaired {
				t.Errorf("repairing: %v, want repaired %v", found, tt.repaired)
			}
			o.Repair = false
			found, err = s.Fsck(t.Context(), o)
			check(t, err)
			if (len(found) == 0) != tt.repaired {
				t.Errorf("after the repair: %v", found)
			}
		})
	}
}

// relink puts a link to a good file in the place of a file.
func relink(path string) error {
	other := path[:len(path)-len("blobs/ab/")-64] + "store.json"
	return errors.Join(os.Remove(path), os.Symlink(other, path))
}

func TestFsckRepairWaitsForBuilds(t *testing.T) {
	s := populated(t)
	use, err := s.Use(t.Context())
	check(t, err)
	done := make(chan error)
	go func() {
		_, err := openIn(t, s.Dir()).Fsck(t.Context(), FsckOptions{Repair: true})
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("repaired beside a build: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	check(t, use.Close())
	check(t, <-done)
}
