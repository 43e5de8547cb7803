package store

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"
	"time"
)

func TestABlobIsReadWhileItGrows(t *testing.T) {
	s := open(t)
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	from, to := io.Pipe()
	type result struct {
		b   []byte
		err error
	}
	read := make(chan result)
	seen := make(chan struct{})
	go func() {
		half := len(data) / 2
		to.Write(data[:half])
		<-seen // the first half has been read before the second is there
		to.Write(data[half:])
		to.Close()
	}()
	d, n, err := s.GrowBlob(from, func(r io.ReadCloser) {
		go func() {
			defer r.Close()
			head := make([]byte, len(data)/2)
			_, err := io.ReadFull(r, head)
			close(seen)
			tail, err2 := io.ReadAll(iotest.OneByteReader(r))
			read <- result{append(head, tail...), errors.Join(err, err2)}
		}()
	})
	check(t, err)
	got := <-read
	if got.err != nil || !bytes.Equal(got.b, data) || n != int64(len(data)) {
		t.Errorf("read %d bytes of %d, %v", len(got.b), n, got.err)
	}
	if b, err := s.ReadBlob(d, n); err != nil || !bytes.Equal(b, data) {
		t.Errorf("the blob: %d bytes, %v", len(b), err)
	}
}

func TestAReaderOfABlobThatFailsIsToldSo(t *testing.T) {
	s := open(t)
	broken := errors.New("the line went dead")
	var r io.ReadCloser
	_, _, err := s.GrowBlob(io.MultiReader(bytes.NewReader(make([]byte, 1000)), iotest.ErrReader(broken)), func(see io.ReadCloser) { r = see })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if b, err := io.ReadAll(r); !errors.Is(err, broken) || len(b) != 1000 {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	check(t, r.Close())
	check(t, r.Close())
	sound(t, s)
}

func TestCloseWakesAReaderThatWaits(t *testing.T) {
	s := open(t)
	from, to := io.Pipe()
	read := make(chan error)
	_, _, err := s.GrowBlob(from, func(r io.ReadCloser) {
		go func() {
			_, err := r.Read(make([]byte, 1))
			read <- err
		}()
		go func() {
			time.Sleep(10 * time.Millisecond) // so that it waits, mostly
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if err := <-read; !errors.Is(err, os.ErrClosed) {
				t.Errorf("got %v", err)
			}
			to.Close()
		}()
	})
	check(t, err)
}
