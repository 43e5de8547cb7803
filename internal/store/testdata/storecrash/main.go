// Command storecrash is the other process of the store's tests. Built with
// the tag crashpoints it dies where WHITTLE_CRASH says.
//
//	storecrash DIR work         do a bit of everything, once
//	storecrash DIR loop         the same for ever
//	storecrash DIR count N      add one to a document, N times, from 8 goroutines
//	storecrash DIR fill         add a part to the shared layer; says whether it was the one
//	storecrash DIR hold KEYTEXT take a key's lock, say so, wait for the end of stdin
//	storecrash DIR use          hold a Use lock on the shared layer, likewise
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/store"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir, action string, args []string) error {
	s, err := store.Open(dir, store.Options{Owner: store.Owner{Kind: "root", XattrPrefix: "trusted."}})
	if err != nil {
		return err
	}
	ctx := context.Background()
	switch action {
	case "work":
		return work(ctx, s)
	case "loop":
		for {
			if err := work(ctx, s); err != nil {
				return err
			}
		}
	case "count":
		return count(s, args[0])
	case "fill":
		return fill(s)
	case "hold":
		l, err := s.LockKey(ctx, digest.Of([]byte(args[0])), nil)
		if err != nil {
			return err
		}
		defer l.Close()
		return untilEOF()
	case "use":
		l, err := s.Use(ctx)
		if err != nil {
			return err
		}
		defer l.Close()
		if !s.HasLayer(digest.Of([]byte("shared"))) {
			return errors.New("the shared layer is not there")
		}
		return untilEOF()
	}
	return errors.New("unknown action " + action)
}

func untilEOF() error {
	fmt.Println("holding")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// work touches every kind of thing, so that it passes every crash point.
func work(ctx context.Context, s *store.Store) error {
	use, err := s.Use(ctx)
	if err != nil {
		return err
	}
	defer use.Close()
	if _, err := s.PutBlobBytes([]byte("a blob")); err != nil {
		return err
	}
	key := digest.Of([]byte("key"))
	l, err := s.LockKey(ctx, key, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	id := digest.Of([]byte("layer"))
	if _, err := s.Record(key); errors.Is(err, store.ErrNotFound) {
		if err := layer(s, id); err != nil {
			return err
		}
	}
	if err := s.PutRecord(key, &store.Record{Layer: id, Text: "RUN work"}); err != nil {
		return err
	}
	if err := s.AddToLayer(id, "index", func(path string) error {
		return os.WriteFile(path, []byte("index"), 0o600)
	}); err != nil {
		return err
	}
	if err := mend(s); err != nil {
		return err
	}
	if err := small(s); err != nil {
		return err
	}
	if err := caches(ctx, s); err != nil {
		return err
	}
	if err := s.Sync(); err != nil {
		return err
	}
	_, err = s.Prune(ctx, store.PruneOptions{
		Keep: func(d digest.Digest) bool { return d == id },
		All:  true,
	})
	return err
}

func layer(s *store.Store, id digest.Digest) error {
	t, err := s.Temp("layer")
	if err != nil {
		return err
	}
	defer t.Remove()
	if err := os.WriteFile(t.Path+"/layer.tar", []byte("whole content"), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(t.Path+"/tree/a/b", 0o700); err != nil {
		return err
	}
	return s.CommitLayer(t, id)
}

// mend damages a layer and commits it again.
func mend(s *store.Store) error {
	id := digest.Of([]byte("mended"))
	if err := layer(s, id); err != nil {
		return err
	}
	if err := os.Truncate(s.LayerDir(id)+"/layer.tar", 3); err != nil {
		return err
	}
	return layer(s, id)
}

// small writes the small files, each run with other content, and leaves a
// record and a layer that pruning takes.
func small(s *store.Store) error {
	err := s.UpdateDoc("tag", "docker.io/library/a:latest", func(old []byte) ([]byte, error) {
		n, _ := strconv.Atoi(string(old))
		return []byte(strconv.Itoa(n + 1)), nil
	})
	if err != nil {
		return err
	}
	if err := s.PutCacheFile("stat", "/context", []byte("cache")); err != nil {
		return err
	}
	if _, err := s.Folder("container", "c1"); err != nil {
		return err
	}
	if err := s.RemoveFolder("container", "c1"); err != nil {
		return err
	}
	t, err := s.Temp("old")
	if err != nil {
		return err
	}
	defer t.Remove()
	other, err := store.Open(s.Dir(), store.Options{Owner: s.Owner()})
	if err != nil {
		return err
	}
	// Another handle without Use: nothing protects this layer from Prune.
	id := digest.Of([]byte("old"))
	ot, err := other.Temp("layer")
	if err != nil {
		return err
	}
	if err := other.CommitLayer(ot, id); err != nil {
		return err
	}
	return other.PutRecord(digest.Of([]byte("old key")), &store.Record{Layer: id})
}

func count(s *store.Store, arg string) error {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			for range n / len(errs) {
				errs[i] = errors.Join(errs[i], s.UpdateDoc("count", "er", increment))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func increment(old []byte) ([]byte, error) {
	if old == nil {
		return []byte("1"), nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(old)))
	return []byte(strconv.Itoa(n + 1)), err
}

func fill(s *store.Store) error {
	var mu sync.Mutex
	filled := 0
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			errs[i] = s.AddToLayer(digest.Of([]byte("shared")), "part", func(path string) error {
				mu.Lock()
				filled++
				mu.Unlock()
				return os.Mkdir(path, 0o700)
			})
		})
	}
	wg.Wait()
	fmt.Println(filled)
	return errors.Join(errs...)
}

// caches puts a cache in the place of another one. One that is there is whole.
func caches(ctx context.Context, s *store.Store) error {
	name := digest.Of([]byte("cache"))
	for _, content := range []string{"first", "second"} {
		if c, err := s.HoldCache(ctx, name, nil); !errors.Is(err, store.ErrNotFound) {
			if err != nil {
				return err
			}
			if _, err := os.Stat(c.Dir + "/last"); err != nil {
				return fmt.Errorf("a cache that is not whole: %w", err)
			}
			if err := c.Close(); err != nil {
				return err
			}
		}
		_, err := s.InstallCache(store.NewCache{Name: name, About: []byte("{}"), Fill: func(dir string) ([]byte, error) {
			return nil, errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/f", []byte(content), 0o600), os.WriteFile(dir+"/last", nil, 0o600))
		}})
		if err != nil {
			return err
		}
	}
	return nil
}
