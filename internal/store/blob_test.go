package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

func TestPutBlobThatFailsLeavesNothing(t *testing.T) {
	broken := errors.New("the line went dead")
	tests := map[string]struct {
		r    io.Reader
		want error
	}{
		"at once":       {iotest.ErrReader(broken), broken},
		"in the middle": {io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), iotest.ErrReader(broken)), broken},
		"cut short":     {io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
		"with bytes":    {iotest.DataErrReader(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(broken))), broken},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			if _, _, err := s.PutBlob(tt.r); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if names, _ := readNames(s.path(blobDir)); len(names) > 0 {
				t.Errorf("blobs: %v", names)
			}
			sound(t, s)
		})
	}
}

func TestReadBlobRefusesWhatItCannotVouchFor(t *testing.T) {
	s := open(t)
	d, n, err := s.PutBlob(iotest.OneByteReader(strings.NewReader("content")))
	check(t, err)
	if n != 7 || d != named("content") {
		t.Errorf("got %d bytes, %s", n, d)
	}
	if b, err := s.ReadBlob(d, 7); string(b) != "content" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := s.ReadBlob(d, 6); err == nil || !strings.Contains(err.Error(), "at most 6") {
		t.Errorf("a blob over the limit: %v", err)
	}
	check(t, os.WriteFile(s.blobPath(d), []byte("conTent"), 0o600))
	if b, err := s.ReadBlob(d, 7); b != nil || !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped bit: %q, %v", b, err)
	}
	_, err = s.PutBlobBytes([]byte("content"))
	check(t, err)
	if _, err := s.ReadBlob(d, 7); err != nil {
		t.Errorf("put again: %v", err)
	}
	check(t, s.DeleteBlob(d))
	check(t, s.DeleteBlob(d))
	if _, err := s.StatBlob(d); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}
