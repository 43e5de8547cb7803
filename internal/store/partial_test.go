package store

import (
	"os"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

func TestAPartialBlobWaitsADayForWhoGoesOnWithIt(t *testing.T) {
	s := open(t)
	d := digest.Of([]byte("a blob"))
	p := s.Partial(d)
	if p == nil || p.Size() != 0 {
		t.Fatalf("%+v", p)
	}
	if s.Partial(d) != nil {
		t.Error("two have it at once")
	}
	if _, err := p.WriteAt([]byte("a bl"), 0); err != nil {
		t.Fatal(err)
	}
	p.Close(false)
	if _, _, err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if p = s.Partial(d); p == nil || p.Size() != 4 {
		t.Fatalf("after a sweep there is %+v", p)
	}
	p.Close(false)
	old := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(s.path(tmpDir, partialPrefix+d.Hex()), old, old); err != nil {
		t.Fatal(err)
	}
	if n, _, err := s.Sweep(); err != nil || n != 1 {
		t.Errorf("an old one: %d removed, %v", n, err)
	}
	if p = s.Partial(d); p == nil || p.Size() != 0 {
		t.Fatalf("%+v", p)
	}
	p.Close(true)
	if _, err := os.Lstat(s.path(tmpDir, partialPrefix+d.Hex())); !os.IsNotExist(err) {
		t.Errorf("what is over stays: %v", err)
	}
}

func TestNoLinkIsTakenForAPartialBlob(t *testing.T) {
	s := open(t)
	d := digest.Of([]byte("a blob"))
	mine := t.TempDir() + "/mine"
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(mine, s.path(tmpDir, partialPrefix+d.Hex())); err != nil {
		t.Fatal(err)
	}
	if p := s.Partial(d); p != nil {
		t.Errorf("%+v", p)
	}
}
