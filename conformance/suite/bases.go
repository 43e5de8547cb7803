package suite

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Bases are the images that cases build on, made of stand-ins. They follow
// Debian's packages, so what belongs to them is kept out of outcomes.
type Bases struct {
	images   map[string]v1.Image
	diffIDs  map[string]bool
	contents map[string]string // digest → a file that has it
}

// bases are the stand-ins that cases build on, and their names.
var bases = []struct {
	standIn string
	names   []string
}{
	{"busybox", []string{"busybox:latest"}},
	{"alpine", []string{"alpine:latest", "alpine:3.12"}},
	{"debian", []string{"debian:latest"}},
}

// MakeBases makes the images. Top is the folder of the module.
func MakeBases(top string, layers *LayerCache) (*Bases, error) {
	dir := os.Getenv("STANDINS_DIR")
	if dir == "" {
		dir = filepath.Join(top, ".cache/standins")
	}
	b := &Bases{images: map[string]v1.Image{}, diffIDs: map[string]bool{}, contents: map[string]string{}}
	for _, base := range bases {
		if out, err := exec.Command(filepath.Join(top, "standins/make"), base.standIn).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("standins/make %s: %w\n%s", base.standIn, err, out)
		}
		img, err := standIn(filepath.Join(dir, base.standIn))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", base.standIn, err)
		}
		for _, n := range base.names {
			b.images[n] = img
		}
		if err := b.know(base.standIn, filepath.Join(dir, base.standIn+".tar"), img, layers); err != nil {
			return nil, fmt.Errorf("%s: %w", base.standIn, err)
		}
	}
	return b, nil
}

// standIn makes an image of a root file system and the instructions beside it.
// Of these the label, which holds versions, is left out.
func standIn(path string) (v1.Image, error) {
	layer, err := tarball.LayerFromFile(path+".tar", tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, err
	}
	changes, err := os.ReadFile(path + ".changes")
	if err != nil {
		return nil, err
	}
	made := v1.Time{Time: time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)}
	img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, History: v1.History{Created: made, CreatedBy: "stand-in"}})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", "amd64", made
	for line := range strings.SplitSeq(string(changes), "\n") {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "ENV":
			file.Config.Env = append(file.Config.Env, rest)
		case "CMD":
			if err := json.Unmarshal([]byte(rest), &file.Config.Cmd); err != nil {
				return nil, err
			}
		}
	}
	return mutate.ConfigFile(img, file)
}

func (b *Bases) know(standIn, archive string, img v1.Image, layers *LayerCache) error {
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	id := file.RootFS.DiffIDs[0].String()
	b.diffIDs[id] = true
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := layers.layer(id, f)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n := e.node; n.kind == "file" && n.size > 50 && b.contents[n.sha256] == "" {
			b.contents[n.sha256] = standIn + ":" + e.name
		}
	}
	return nil
}

// below is the number of an image's layers that are a base's.
func (b *Bases) below(m *Image) int {
	n := 0
	for n < len(m.diffIDs) && b.diffIDs[m.diffIDs[n]] {
		n++
	}
	return n
}

// Save writes an archive that engines load for each base, named by what begins
// the names of its images, and returns these.
func (b *Bases) Save(dir string) ([]string, error) {
	var names []string
	for _, base := range bases {
		tags := map[name.Tag]v1.Image{}
		for _, n := range base.names {
			tag, err := name.NewTag(n)
			if err != nil {
				return nil, err
			}
			tags[tag] = b.images[n]
		}
		if err := tarball.MultiWriteToFile(filepath.Join(dir, base.standIn), tags); err != nil {
			return nil, err
		}
		names = append(names, base.standIn)
	}
	return names, nil
}

// Serve gives the bases by a registry on the loopback, as library/NAME, and
// takes what is pushed to it.
func (b *Bases) Serve() (host string, end func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go func() { _ = server.Serve(l) }() // ends with Close
	host = l.Addr().String()
	for n, img := range b.images {
		ref, err := name.ParseReference(host + "/library/" + n)
		if err == nil {
			err = remote.Write(ref, img)
		}
		if err != nil {
			return "", nil, errors.Join(err, server.Close())
		}
	}
	return host, server.Close, nil
}
