package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// layered makes a context of n folders of about so many bytes each, of files
// that compress as programs do, and a Dockerfile on from with a COPY for each.
func (s *suite) layered(from string, n, bytes int) (string, error) {
	text := "ARG BUSYBOX\nFROM " + from + "\n"
	for i := range n {
		text += fmt.Sprintf("COPY layer%d /layer%d\n", i, i)
	}
	dir, err := s.context(text)
	for i := range n {
		if err == nil {
			err = s.layer(dir, i, bytes, uint64(i))
		}
	}
	return dir, err
}

// layer writes the files of a layer: half of them text, half of them random.
func (s *suite) layer(dir string, i, bytes int, seed uint64) error {
	top := filepath.Join(dir, fmt.Sprintf("layer%d", i))
	if err := os.MkdirAll(top, 0o755); err != nil {
		return err
	}
	const size = 1 << 20
	random, noise := rand.New(rand.NewPCG(seed, 7)), rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	for k := range bytes / size {
		data := make([]byte, 0, size)
		for len(data) < size/2 {
			data = append(data, source(random)...)
		}
		rest := make([]byte, size-size/2)
		noise.Read(rest)
		if err := os.WriteFile(filepath.Join(top, fmt.Sprintf("file%04d", k)), append(data, rest...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// push sends the image of that name to the registry, its layers in a form. It is
// nil for builders that push when they build.
func (s *suite) push(ctx context.Context, b builder, name, form string) (*exec.Cmd, error) {
	switch b := b.(type) {
	case *whittle:
		return b.command(ctx, "push", "-q", "--compression", form, name), nil
	case *docker:
		if form != "gzip" {
			return nil, fmt.Errorf("not possible: docker push has no %s", form)
		}
		return b.docker(ctx, "push", "-q", name), nil
	case *buildah:
		return b.command(ctx, "push", "-q", "--tls-verify=false", "--signature-policy", b.dir+"/policy.json", "--compression-format", form, name), nil
	}
	return nil, nil
}

// export writes an image that is built to an archive, its layers in j's form.
// buildkitd exports when it builds, which by then is done.
func (s *suite) export(ctx context.Context, b builder, j job, archive string) (*exec.Cmd, builder) {
	switch b := b.(type) {
	case *whittle:
		return b.command(ctx, "save", "--format", "oci", "--compression", j.form, "-o", archive, j.tag), b
	case *buildah:
		return b.command(ctx, "push", "-q", "--signature-policy", b.dir+"/policy.json", "--compression-format", j.form, j.tag, "oci-archive:"+archive), b
	}
	j.archive = archive
	return b.build(ctx, j), b
}

// pushing is the run of rows that push what was built before. buildkitd pushes
// when it builds, which by then is done.
func (s *suite) pushing(ctx context.Context, b builder, j job) (sample, error) {
	cmd, err := s.push(ctx, b, j.tag, j.form)
	if err != nil {
		return sample{}, err
	}
	if cmd != nil {
		return timed(cmd, b)
	}
	j.push = j.tag
	return timed(b.build(ctx, j), b)
}

// largeBase pushes a base of n layers to the suite's registry. layers is a folder
// with a gzip file for each of them.
func (s *suite) largeBase(ctx context.Context, name string, n, bytes int) (base, layers string, err error) {
	base = s.registry.host + "/" + name + ":latest"
	dir, err := s.layered("$BUSYBOX", n, s.scaled(bytes)/n)
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(dir)
	w, err := s.newWhittle("tree")
	if err != nil {
		return "", "", err
	}
	defer w.close()
	if err := s.need(ctx, w, "busybox"); err != nil {
		return "", "", err
	}
	err = quiet(w.build(ctx, job{dir: dir, tag: base}))
	if err == nil {
		_, err = s.pushing(ctx, w, job{tag: base, form: "gzip"})
	}
	if err != nil {
		return "", "", err
	}
	layers, err = s.compressed(dir)
	return base, layers, err
}

func pullUnpack(ctx context.Context, s *suite) (*scene, error) {
	base, layers, err := s.largeBase(ctx, "base400", 6, 400<<20)
	if err != nil {
		return nil, err
	}
	run, err := s.context("FROM " + base + "\nRUN true\n")
	return &scene{
		job: job{dir: run}, close: func() error { return os.RemoveAll(layers) },
		ready: func(ctx context.Context, b builder, n int) error {
			if err := b.forget(ctx); err != nil {
				return err
			}
			return s.lose(ctx, b, base)
		},
		floor: func(ctx context.Context, _ int) (sample, error) { return gunzipped(ctx, layers) },
	}, err
}

// gunzipped is what it takes to decompress the files of a folder side by side.
func gunzipped(ctx context.Context, dir string) (sample, error) {
	return timed(sideBySide(ctx, `"$0"/*.gz`, "gunzip -c $x >/dev/null", dir), nil)
}

// lose makes builders without a pristine state forget a base that they pulled.
func (s *suite) lose(ctx context.Context, b builder, image string) error {
	switch b := b.(type) {
	case *docker:
		_ = b.docker(ctx, "rmi", "-f", image).Run() // it may not be there
		return b.forget(ctx)
	case *buildah:
		_ = b.command(ctx, "rmi", "-f", image).Run()
	}
	return nil
}

// compressed makes a gzip file of each folder of a context.
func (s *suite) compressed(dir string) (string, error) {
	out, err := s.folder()
	if err != nil {
		return "", err
	}
	folders, err := filepath.Glob(filepath.Join(dir, "layer*"))
	for _, f := range folders {
		if err == nil {
			err = gzipOf(f, filepath.Join(out, filepath.Base(f)+".gz"))
		}
	}
	return out, err
}

func gzipOf(dir, to string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	tar := exec.Command("tar", "-C", dir, "-c", ".")
	tar.Stdout = z
	return errors.Join(tar.Run(), z.Close())
}

// pushAll pushes to an empty registry: what it has of other repositories need
// not be sent.
func pushAll(form string) func(context.Context, *suite) (*scene, error) {
	return func(ctx context.Context, s *suite) (*scene, error) {
		dir, err := s.layered("scratch", 5, s.scaled(500<<20)/5)
		if err != nil {
			return nil, err
		}
		other, err := s.startServer()
		if err != nil {
			return nil, err
		}
		j := job{dir: dir, tag: other.host + "/pushed:latest", form: form}
		return &scene{
			job: j, close: func() error { return errors.Join(other.stop(), os.RemoveAll(dir)) },
			ready: func(ctx context.Context, b builder, _ int) error {
				return errors.Join(other.empty(), b.forget(ctx), quiet(b.build(ctx, j)))
			},
			run: func(ctx context.Context, b builder, j job) (sample, error) {
				smp, err := s.pushing(ctx, b, j)
				smp.pushed = bytesBelow(other.data)
				return smp, err
			},
			floor: func(ctx context.Context, _ int) (sample, error) {
				return timed(compressing(ctx, dir, "layer*", form), nil)
			},
		}, nil
	}
}

// compressing is what it takes to compress folders of dir side by side, with the
// program of that name.
func compressing(ctx context.Context, dir, folders, compressor string) *exec.Cmd {
	return sideBySide(ctx, `"$0"/`+folders, "tar -C $x -c . | "+compressor+" -c >/dev/null", dir)
}

// bytesBelow is the size of all files below a folder.
func bytesBelow(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if st, err := d.Info(); err == nil {
				n += st.Size()
			}
		}
		return nil
	})
	return n
}

// exportAll writes the same image to an archive, which is an OCI layout.
func exportAll(form string) func(context.Context, *suite) (*scene, error) {
	return func(ctx context.Context, s *suite) (*scene, error) {
		dir, err := s.layered("scratch", 5, s.scaled(500<<20)/5)
		if err != nil {
			return nil, err
		}
		archive := filepath.Join(s.dir, "exported.tar")
		j := job{dir: dir, tag: "exported:latest", form: form}
		return &scene{
			job: j, close: func() error { return os.RemoveAll(dir) },
			prime: func(_ context.Context, b builder) error {
				if _, ok := b.(*docker); ok {
					return errors.New("not possible: docker compresses no archive")
				}
				return nil
			},
			ready: func(ctx context.Context, b builder, _ int) error {
				return errors.Join(b.forget(ctx), quiet(b.build(ctx, job{dir: dir, tag: j.tag})))
			},
			run: func(ctx context.Context, b builder, j job) (sample, error) {
				defer os.Remove(archive)
				smp, err := timed(s.export(ctx, b, j, archive))
				smp.pushed = bytesBelow(archive)
				return smp, err
			},
			floor: func(ctx context.Context, _ int) (sample, error) {
				return timed(compressing(ctx, dir, "layer*", form), nil)
			},
		}, nil
	}
}

// repository is a name in a registry that is b's alone.
func repository(b builder) string { return strings.ToLower(strings.ReplaceAll(b.name(), " ", "-")) }

func pushAgain(ctx context.Context, s *suite) (*scene, error) {
	size := s.scaled(500<<20) / 5
	dir, err := s.layered("scratch", 5, size)
	if err != nil {
		return nil, err
	}
	other, err := s.startServer()
	if err != nil {
		return nil, err
	}
	j := func(b builder) job {
		return job{dir: dir, tag: other.host + "/" + repository(b) + ":latest", form: "gzip"}
	}
	return &scene{
		job:   job{dir: dir},
		run:   func(ctx context.Context, b builder, _ job) (sample, error) { return s.pushing(ctx, b, j(b)) },
		close: func() error { return errors.Join(other.stop(), os.RemoveAll(dir)) },
		prime: func(ctx context.Context, b builder) error {
			if err := quiet(b.build(ctx, j(b))); err != nil {
				return err
			}
			_, err := s.pushing(ctx, b, j(b))
			return err
		},
		ready: func(ctx context.Context, b builder, n int) error {
			return errors.Join(s.layer(dir, 4, size, uint64(n)*5+4), quiet(b.build(ctx, j(b))))
		},
		floor: func(ctx context.Context, _ int) (sample, error) {
			return timed(compressing(ctx, dir, "layer4", "gzip"), nil)
		},
	}, nil
}
