package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// freshCI is a job on a machine that has nothing but a cache in a registry: the
// tools and what was made with them are fetched, and the steps after the edited
// file run on them.
func freshCI(ctx context.Context, s *suite) (*scene, error) {
	tools, layers, err := s.largeBase(ctx, "tools", 4, 150<<20)
	if err != nil {
		return nil, err
	}
	dir, err := s.context("ARG BUSYBOX\nFROM " + tools + ` AS build
COPY layer0 /deps
RUN sha256sum /deps/* >/sums && cp -r /deps /lib
COPY src /src
RUN cat /sums /src/* | sha256sum >/out
FROM $BUSYBOX
COPY --from=build /out /out
CMD ["cat", "/out"]
`)
	if err == nil {
		err = s.layer(dir, 0, s.scaled(40<<20), 99)
	}
	if err == nil {
		err = gzipOf(filepath.Join(dir, "layer0"), filepath.Join(layers, "deps.gz"))
	}
	if err != nil {
		return nil, err
	}
	other, err := s.startServer()
	if err != nil {
		return nil, err
	}
	j := func(b builder) job {
		name := other.host + "/" + repository(b)
		return job{dir: dir, push: name + "/app:latest", cache: name + "/cache"}
	}
	edit := func(n int) error {
		if err := os.MkdirAll(filepath.Join(dir, "src"), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "src", "main"), fmt.Appendf(nil, "version %d\n", n), 0o644)
	}
	web := httptest.NewServer(http.FileServer(http.Dir(layers)))
	return &scene{
		job: job{dir: dir}, close: func() error {
			web.Close()
			return errors.Join(other.stop(), os.RemoveAll(dir), os.RemoveAll(layers))
		},
		prime: func(ctx context.Context, b builder) error {
			first := j(b)
			first.export = true
			if err := errors.Join(edit(0), s.emptyStore(ctx, b)); err != nil {
				return err
			}
			_, err := s.shipped(ctx, b, first)
			return err
		},
		ready: func(ctx context.Context, b builder, n int) error { return errors.Join(edit(n), s.emptyStore(ctx, b)) },
		run:   func(ctx context.Context, b builder, _ job) (sample, error) { return s.shipped(ctx, b, j(b)) },
		floor: func(ctx context.Context, _ int) (sample, error) { return downloaded(ctx, web.URL, layers) },
	}, nil
}

// emptyStore makes a builder forget everything, bases too. Whoever needs them later
// fetches them again.
func (s *suite) emptyStore(ctx context.Context, b builder) error {
	delete(s.has, b)
	switch b := b.(type) {
	case *whittle:
		return b.empty()
	case *moby:
		b.had = nil
		return b.server.Forget()
	case *buildah:
		return quiet(b.command(ctx, "rmi", "--all", "--force"))
	}
	return nil
}

// downloaded is what it takes to fetch the files of a folder, side by side.
func downloaded(ctx context.Context, url, dir string) (sample, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.gz"))
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { errs[i] = download(ctx, url+"/"+filepath.Base(name)) })
	}
	all.Wait()
	return sample{took: time.Since(began)}, errors.Join(errs...)
}

func download(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// shipped builds and pushes, with one command or two.
func (s *suite) shipped(ctx context.Context, b builder, j job) (sample, error) {
	switch b.(type) {
	case *docker:
		return sample{}, errors.New("not possible: its shared cache is within the image, and has nothing of the stage that builds")
	case *buildah:
		j.tag = j.push
	}
	built, err := timed(b.build(ctx, j), b)
	if err != nil || j.tag == "" {
		return built, err
	}
	cmd, err := s.push(ctx, b, j.tag, "gzip")
	if err != nil {
		return sample{}, err
	}
	pushed, err := timed(cmd, b)
	return sample{took: built.took + pushed.took, peak: max(built.peak, pushed.peak),
		read: built.read + pushed.read, written: built.written + pushed.written}, err
}
