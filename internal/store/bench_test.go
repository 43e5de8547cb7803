package store

import (
	"fmt"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

// A record as a RUN step of an ordinary image has it.
func benchRecord(id digest.Digest) *Record {
	r := &Record{Layer: id, Kind: "run", Text: "RUN make"}
	for i := range 20 {
		r.Fields = append(r.Fields, digest.Field{Label: fmt.Sprintf("env.%d", i), Value: "PATH=/usr/local/sbin:/usr/local/bin"})
	}
	return r
}

func benchStore(b *testing.B) (*Store, digest.Digest) {
	s := open(b)
	id := commit(b, s, "layer", "content")
	check(b, s.PutRecord(named("key"), benchRecord(id)))
	check(b, s.Sync())
	return s, named("key")
}

func BenchmarkOpen(b *testing.B) {
	s, _ := benchStore(b)
	for b.Loop() {
		openIn(b, s.Dir())
	}
}

func BenchmarkOpenUseRecord(b *testing.B) {
	s, key := benchStore(b)
	for b.Loop() {
		n := openIn(b, s.Dir())
		l, err := n.Use(b.Context())
		check(b, err)
		_, err = n.Record(key)
		check(b, err)
		check(b, l.Close())
	}
}

func BenchmarkRecord(b *testing.B) {
	s, key := benchStore(b)
	for b.Loop() {
		_, err := s.Record(key)
		check(b, err)
	}
}

func BenchmarkPutRecord(b *testing.B) {
	s, key := benchStore(b)
	r := benchRecord(named("layer"))
	for b.Loop() {
		check(b, s.PutRecord(key, r))
	}
}

func BenchmarkCommitLayer(b *testing.B) {
	s := open(b)
	for i := 0; b.Loop(); i++ {
		t, err := s.Temp("bench")
		check(b, err)
		check(b, s.CommitLayer(t, named(fmt.Sprint(i))))
	}
}

func BenchmarkLockKey(b *testing.B) {
	s := open(b)
	for b.Loop() {
		l, err := s.LockKey(b.Context(), named("key"), nil)
		check(b, err)
		check(b, l.Close())
	}
}

func BenchmarkUpdateDoc(b *testing.B) {
	s := open(b)
	for i := 0; b.Loop(); i++ {
		check(b, s.PutDoc("tag", "docker.io/library/alpine:3", fmt.Appendf(nil, "%d", i)))
	}
}
