package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Caches on a second machine: a project is built in an empty store, once as it
// is and once after an import of the cache mounts that another store has
// exported. What both fetch comes from servers on this machine that answer
// after a while, as others do.

// away is how far the servers are.
const away = 20 * time.Millisecond

// project is what is built.
type project struct {
	dir  string   // context
	args []string // of build
	edit func() error
	done func() error
}

// cachesOf makes the row of a project. The caches are those of a store on which
// it was built, edited and built again.
func cachesOf(make func(context.Context, *suite) (*project, error)) func(context.Context, *suite) (*scene, error) {
	return func(ctx context.Context, s *suite) (*scene, error) {
		p, err := make(ctx, s)
		if err != nil {
			return nil, err
		}
		exports := map[builder]string{}
		return &scene{
			close: p.done,
			prime: func(ctx context.Context, b builder) error {
				w := b.(*whittle)
				out, err := s.folder()
				exports[b] = out
				for range 2 {
					err = errors.Join(err, p.edit())
					if err == nil {
						err = quiet(w.command(ctx, p.build()...))
					}
					if err == nil {
						err = quiet(w.command(ctx, "cache", "mounts", "export", out))
					}
				}
				return errors.Join(err, p.edit())
			},
			run: func(ctx context.Context, b builder, _ job) (sample, error) {
				return p.elsewhere(ctx, b.(*whittle), exports[b])
			},
			floor: func(ctx context.Context, _ int) (sample, error) {
				w := s.builder("whittle tree")
				if w == nil {
					return sample{}, errors.New("not here: no provider tree")
				}
				return p.elsewhere(ctx, w, "")
			},
		}, nil
	}
}

func (p *project) build() []string {
	return append(append([]string{"build", "-q"}, p.args...), p.dir)
}

// elsewhere builds a project in a store that has the base images and, if there
// is one, what an import brings.
func (p *project) elsewhere(ctx context.Context, w *whittle, from string) (sample, error) {
	if err := w.forget(ctx); err != nil {
		return sample{}, err
	}
	var brought sample
	if from != "" {
		var err error
		if brought, err = timed(w.command(ctx, "cache", "mounts", "import", from), w); err != nil {
			return sample{}, err
		}
	}
	smp, err := timed(w.command(ctx, p.build()...), w)
	smp.took += brought.took
	smp.peak = max(smp.peak, brought.peak)
	return smp, err
}

// serve has h answer, each time after a while.
func serve(h http.Handler) (url string, stop func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(away)
		h.ServeHTTP(w, r)
	})}
	go s.Serve(l) // ends with stop
	return "http://" + l.Addr().String(), s.Close, nil
}

// goProject is this program's own sources, with the modules that they need.
func goProject(ctx context.Context, s *suite) (*project, error) {
	mods, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output()
	if err != nil {
		return nil, err
	}
	proxy := filepath.Join(strings.TrimSpace(string(mods)), "cache", "download")
	if _, err := os.Stat(proxy); errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("not here: needs the modules in " + proxy)
	}
	dir, err := s.context(`ARG GOLANG
FROM $GOLANG
WORKDIR /src
COPY go.mod go.sum *.go ./
COPY cmd cmd
COPY internal internal
ARG GOPROXY
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOSUMDB=off GOFLAGS=-mod=mod GOMODCACHE=/go/pkg/mod go build -o /app ./cmd/whittle
`)
	if err != nil {
		return nil, err
	}
	copying := exec.CommandContext(ctx, "sh", "-c", `cp -r go.mod go.sum *.go cmd internal "$0"`, dir)
	if out, err := copying.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", copying.Args, err, out)
	}
	url, stop, err := serve(http.FileServer(http.Dir(proxy)))
	n := 0
	return &project{
		dir: dir, args: []string{"--build-arg", "GOPROXY=" + url, "--build-arg", "GOLANG=" + s.registry.image("golang")}, done: stop,
		edit: func() error {
			n++
			text := fmt.Sprintf("package store\n\n// Edited is a change that all who import this must see.\nconst Edited = %d\n", n)
			return os.WriteFile(filepath.Join(dir, "internal/store/edited.go"), []byte(text), 0o644)
		},
	}, err
}

// npmPackages is how many packages the npm project depends on, and npmFiles
// how many files each of them has.
const (
	npmPackages = 250
	npmFiles    = 40
)

// npmProject depends on packages that are made here, of files that are as long
// as those of others, and compress as well.
func npmProject(ctx context.Context, s *suite) (*project, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("not here: needs node")
	}
	npm, err := filepath.EvalSymlinks("/usr/lib/node_modules/npm")
	if err != nil {
		return nil, errors.New("not here: needs npm in /usr/lib/node_modules")
	}
	dir, err := s.context(`ARG BUSYBOX
FROM $BUSYBOX
COPY base /
WORKDIR /src
COPY package.json ./
ARG REGISTRY
RUN --mount=type=cache,target=/root/.npm node /npm/bin/npm-cli.js install --no-audit --no-fund --prefer-offline --registry $REGISTRY
`)
	if err != nil {
		return nil, err
	}
	copying := exec.CommandContext(ctx, "sh", "-ec", `mkdir -p "$0/base/bin"; cp -L "$1" "$0/base/bin/node"; cp -r "$2" "$0/base/npm"
ldd "$1" | grep -o '/[^ ]*' | xargs cp -L --parents -t "$0/base"`, dir, node, npm)
	if out, err := copying.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", copying.Args, err, out)
	}
	files := &npmRegistry{files: map[string][]byte{}}
	url, stop, err := serve(files)
	if err != nil {
		return nil, err
	}
	needs := map[string]string{}
	for i := range npmPackages {
		name := fmt.Sprintf("made-here-%d", i)
		needs[name] = "1.0.0"
		if err := files.publish(url, name, uint64(i)); err != nil {
			return nil, err
		}
	}
	edit := func() error {
		name := fmt.Sprintf("made-here-%d", len(needs))
		needs[name] = "1.0.0"
		if err := files.publish(url, name, uint64(len(needs))); err != nil {
			return err
		}
		text, err := json.Marshal(map[string]any{"name": "app", "version": "1.0.0", "dependencies": needs})
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "package.json"), text, 0o644)
	}
	return &project{dir: dir, args: []string{"--build-arg", "REGISTRY=" + url, "--build-arg", "BUSYBOX=" + s.registry.image("busybox")}, done: stop, edit: edit}, edit()
}

// npmRegistry serves packages of npm from memory.
type npmRegistry struct{ files map[string][]byte }

func (r *npmRegistry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	b, ok := r.files[q.URL.Path]
	if !ok {
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000")
	_, _ = w.Write(b) // who asked may be gone
}

// publish makes a package. Nothing is asked for while it does.
func (r *npmRegistry) publish(url, name string, seed uint64) error {
	var archive bytes.Buffer
	packed := gzip.NewWriter(&archive)
	t := tar.NewWriter(packed)
	random := rand.New(rand.NewPCG(seed, 1))
	meta := map[string]any{"name": name, "version": "1.0.0"}
	for i := range npmFiles {
		text, err := json.Marshal(meta)
		file := "package.json"
		if i > 0 {
			file, text = fmt.Sprintf("lib/%d.js", i), source(random)
		}
		err = errors.Join(err, t.WriteHeader(&tar.Header{Name: "package/" + file, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}))
		if _, werr := t.Write(text); err != nil || werr != nil {
			return errors.Join(err, werr)
		}
	}
	if err := errors.Join(t.Close(), packed.Close()); err != nil {
		return err
	}
	sum := sha512.Sum512(archive.Bytes())
	path := "/" + name + "/-/" + name + "-1.0.0.tgz"
	meta["dist"] = map[string]string{"tarball": url + path, "integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}
	doc, err := json.Marshal(map[string]any{"name": name, "dist-tags": map[string]string{"latest": "1.0.0"}, "versions": map[string]any{"1.0.0": meta}})
	r.files[path], r.files["/"+name] = archive.Bytes(), doc
	return err
}

// source is some text that compresses about as programs do.
func source(random *rand.Rand) []byte {
	words := []string{"function", "return", "const", "exports.", "module", "require(", "=>", "{\n", "}\n", ";\n", "if (", "this."}
	var b bytes.Buffer
	for range 200 + random.IntN(600) {
		if random.IntN(3) == 0 {
			fmt.Fprintf(&b, "v%x ", random.IntN(1<<20))
			continue
		}
		b.WriteString(words[random.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.Bytes()
}
