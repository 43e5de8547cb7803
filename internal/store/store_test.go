package store

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

var rootOwner = Owner{Kind: "root", XattrPrefix: "trusted."}

// open makes a store in a new folder.
func open(t testing.TB) *Store {
	t.Helper()
	return openIn(t, filepath.Join(t.TempDir(), "store"))
}

func openIn(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{Owner: rootOwner})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func named(s string) digest.Digest { return digest.Of([]byte(s)) }

// commit makes a layer with a tar of the given content.
func commit(t testing.TB, s *Store, name, content string) digest.Digest {
	t.Helper()
	tmp, err := s.Temp("test")
	check(t, err)
	check(t, os.WriteFile(tmp.Path+"/layer.tar", []byte(content), 0o600))
	check(t, s.CommitLayer(tmp, named(name)))
	return named(name)
}

// sound fails the test when the store breaks a promise or has anything in tmp/.
func sound(t testing.TB, s *Store) {
	t.Helper()
	problems, err := s.Fsck(t.Context(), FsckOptions{})
	check(t, err)
	for _, p := range problems {
		t.Errorf("fsck: %s", p)
	}
	left, err := readNames(s.path(tmpDir))
	check(t, err)
	if len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

func TestAStoreThatMayNotBeReadSaysWhichOneAndWhatToDo(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("needs not to be root: root can read every folder")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	_, err := Open(filepath.Join(dir, "store"), Options{})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), dir+"/store") || !strings.Contains(refused.Hint(), "WHITTLE_ROOT") {
		t.Errorf("got %v", err)
	}
}

func TestOpenMakesAClosedStoreAndOpensItAgain(t *testing.T) {
	s := open(t)
	fi, err := os.Stat(s.Dir())
	check(t, err)
	if got := fi.Mode().Perm(); got != 0o700 {
		t.Errorf("mode %o, want 700", got)
	}
	d, err := s.PutBlobBytes([]byte("x"))
	check(t, err)
	if n, err := openIn(t, s.Dir()).StatBlob(d); n != 1 || err != nil {
		t.Errorf("the second handle sees %d, %v", n, err)
	}
	sound(t, s)
}

func TestOpenBy32AtOnceGivesOneStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := Open(dir, Options{Owner: rootOwner}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sound(t, openIn(t, dir))
}

func TestOpenRefusesWhatIsNotThisOwnersStore(t *testing.T) {
	user := Owner{Kind: "user", IDMap: "0 1000 1", XattrPrefix: "user."}
	tests := map[string]struct {
		prepare func(dir string) error
		owner   Owner
		reason  string
	}{
		"root's store, opened by a user":      {nil, user, `kind "root"`},
		"the same kind with another id map":   {nil, Owner{Kind: "root", IDMap: "0 5 1", XattrPrefix: "trusted."}, "id map"},
		"a newer format":                      {writeHead(`{"format":9}`), rootOwner, "format 9"},
		"a head that a power cut has emptied": {writeHead(""), rootOwner, "not readable"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			if tt.prepare != nil {
				check(t, tt.prepare(s.Dir()))
			}
			_, err := Open(s.Dir(), Options{Owner: tt.owner})
			var refused *RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a RefusedError", err)
			}
			if !strings.Contains(err.Error(), tt.reason) || !strings.Contains(refused.Hint(), "--root") {
				t.Errorf("got %q with hint %q, want the reason %q and a way out", err, refused.Hint(), tt.reason)
			}
		})
	}
}

func writeHead(text string) func(string) error {
	return func(dir string) error { return os.WriteFile(dir+"/"+headName, []byte(text), 0o600) }
}

func TestOpenDoesNotSpreadOverAFolderOfOtherThings(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(dir+"/thesis.tex", nil, 0o600))
	var refused *RefusedError
	if _, err := Open(dir, Options{Owner: rootOwner}); !errors.As(err, &refused) {
		t.Errorf("got %v, want a RefusedError", err)
	}
	if names, _ := readNames(dir); len(names) != 1 {
		t.Errorf("the folder holds %v now", names)
	}
}

func TestErrNotFoundIsErrNotExist(t *testing.T) {
	s := open(t)
	_, blob := s.OpenBlob(named("x"))
	_, stat := s.StatBlob(named("x"))
	_, read := s.ReadBlob(named("x"), 10)
	_, record := s.Record(named("x"))
	_, doc := s.Doc("tag", "x")
	for what, err := range map[string]error{"open": blob, "stat": stat, "read": read, "record": record, "doc": doc} {
		if !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v is not both ErrNotFound and fs.ErrNotExist", what, err)
		}
	}
	if s.HasLayer(named("x")) {
		t.Error("there is a layer that nobody made")
	}
}

func TestRecordComesBackAsItWasPut(t *testing.T) {
	s := open(t)
	id := commit(t, s, "layer", "content")
	want := &Record{
		Layer: id, Kind: "run", Content: named("content"), Size: 7, Entries: 1,
		Created: time.Unix(1e9, 0).UTC(), Text: "RUN make",
		Fields: []digest.Field{{Label: "argv.0", Value: "make\n\x00"}},
		Nonce:  "n", Extra: map[string]string{"a": "b"},
	}
	check(t, s.PutRecord(named("key"), want))
	got, err := openIn(t, s.Dir()).Record(named("key"))
	check(t, err)
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("got  %s\nwant %s", g, w)
	}
	n := 0
	check(t, s.Records(func(key digest.Digest, r *Record) bool {
		n++
		return key == named("key") && r.Text == "RUN make"
	}))
	if n != 1 {
		t.Errorf("Records called %d times, want once", n)
	}
	sound(t, s)
}

func TestRecordIsDroppedWhenItCannotBeTrusted(t *testing.T) {
	tests := map[string]func(s *Store, record, layer string) error{
		"its layer is gone": func(s *Store, _, layer string) error { return os.RemoveAll(layer) },
		"its layer's tar is shorter": func(s *Store, _, layer string) error {
			return os.Truncate(layer+"/layer.tar", 2)
		},
		"its layer's tar is gone": func(s *Store, _, layer string) error { return os.Remove(layer + "/layer.tar") },
		"it is empty":             func(s *Store, record, _ string) error { return os.Truncate(record, 0) },
		"one bit of it is wrong": func(s *Store, record, _ string) error {
			b, err := os.ReadFile(record)
			b[len(b)-10] ^= 1
			return errors.Join(err, os.WriteFile(record, b, 0o600))
		},
		"it belongs to another key": func(s *Store, record, layer string) error {
			if err := s.PutRecord(named("other"), &Record{Text: "other"}); err != nil {
				return err
			}
			return os.Rename(s.sharded(recordDir, named("other")), record)
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			id := commit(t, s, "layer", "content")
			key := named("key")
			check(t, s.PutRecord(key, &Record{Layer: id}))
			check(t, damage(s, s.sharded(recordDir, key), s.LayerDir(id)))
			if r, err := s.Record(key); !errors.Is(err, ErrNotFound) {
				t.Fatalf("got %v, %v; want ErrNotFound", r, err)
			}
			if _, err := os.Stat(s.sharded(recordDir, key)); !errors.Is(err, fs.ErrNotExist) {
				t.Error("the record's file is still there")
			}
			commit(t, s, "layer", "content")
			check(t, s.PutRecord(key, &Record{Layer: id}))
			if _, err := s.Record(key); err != nil {
				t.Errorf("made again: %v", err)
			}
		})
	}
}

func TestPutRecordNeedsItsLayer(t *testing.T) {
	s := open(t)
	if err := s.PutRecord(named("key"), &Record{Layer: named("nowhere")}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

func TestUseIsNotedAtMostHourly(t *testing.T) {
	s := open(t)
	key := named("key")
	check(t, s.PutRecord(key, &Record{}))
	path := s.sharded(recordDir, key)
	start := time.Now().Truncate(time.Second)
	check(t, os.Chtimes(path, start, start))
	for _, tt := range []struct {
		after time.Duration
		want  time.Duration
	}{{59 * time.Minute, 0}, {61 * time.Minute, 61 * time.Minute}} {
		s.now = func() time.Time { return start.Add(tt.after) }
		_, err := s.Record(key)
		check(t, err)
		fi, err := os.Stat(path)
		check(t, err)
		if got := fi.ModTime().Sub(start); got != tt.want {
			t.Errorf("used after %v: mtime moved by %v, want %v", tt.after, got, tt.want)
		}
	}
}
