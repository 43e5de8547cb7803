package conformance

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
)

// An image is what an archive of docker's holds: the config as it was written
// and the layers' entries, lowest first.
type image struct {
	config []byte
	layers [][]entry
}

// An entry is one member of a layer's tar.
type entry struct {
	name string // absolute and clean
	node node
	link string // of a hard link: the absolute name of its target
}

// A node is what a path of a file system is, as far as a tar can tell.
type node struct {
	kind   string
	mode   int64
	uid    int
	gid    int
	size   int64
	sha256 string
	target string // of a symbolic link
	device string // major,minor
	mtime  int64
	xattrs map[string]string
}

var kinds = map[byte]string{
	tar.TypeReg: "file", tar.TypeLink: "hard link", tar.TypeSymlink: "symlink", tar.TypeDir: "directory",
	tar.TypeFifo: "fifo", tar.TypeChar: "character device", tar.TypeBlock: "block device",
}

// layerCache keeps the layers that were read, by diffID: bases come again and
// again.
type layerCache struct {
	mu    sync.Mutex
	known map[string][]entry
}

// readImage reads the first image of a docker archive.
func (c *layerCache) readImage(archive string) (*image, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	members, err := locate(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(members.text("manifest.json"), &manifest); err != nil || len(manifest) == 0 {
		return nil, fmt.Errorf("%s: manifest.json: %d images: %w", archive, len(manifest), err)
	}
	var ids struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	img := &image{config: members.text(manifest[0].Config)}
	if err := json.Unmarshal(img.config, &ids); err != nil {
		return nil, fmt.Errorf("%s: config: %w", archive, err)
	}
	if len(ids.RootFS.DiffIDs) != len(manifest[0].Layers) {
		return nil, fmt.Errorf("%s: %d diffIDs for %d layers", archive, len(ids.RootFS.DiffIDs), len(manifest[0].Layers))
	}
	for i, name := range manifest[0].Layers {
		layer, err := c.layer(ids.RootFS.DiffIDs[i], members.open(name))
		if err != nil {
			return nil, fmt.Errorf("%s: layer %d: %w", archive, i, err)
		}
		img.layers = append(img.layers, layer)
	}
	return img, nil
}

// layer reads a layer's tar, once for each diffID, which it must have.
func (c *layerCache) layer(diffID string, r io.Reader) ([]entry, error) {
	c.mu.Lock()
	known, ok := c.known[diffID]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	h := sha256.New()
	r = io.TeeReader(r, h)
	entries, err := readLayer(r)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != diffID {
		return nil, fmt.Errorf("diffID is %s, and the tar's sum is %s", diffID, got)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[diffID] = entries
	return entries, nil
}

// A table is where an archive's members lie.
type table struct {
	file    *os.File
	extents map[string][2]int64
	links   map[string]string
}

func locate(f *os.File) (*table, error) {
	t := &table{f, map[string][2]int64{}, map[string]string{}}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			t.extents[h.Name] = [2]int64{at, h.Size}
		case tar.TypeSymlink: // dockerd writes a layer that several chains have once
			t.links[h.Name] = path.Join(path.Dir(h.Name), h.Linkname)
		}
	}
}

// open returns a member; one that is not there is empty, and no valid JSON.
func (t *table) open(name string) io.Reader {
	if to, ok := t.links[name]; ok {
		name = to
	}
	e := t.extents[name]
	return io.NewSectionReader(t.file, e[0], e[1])
}

func (t *table) text(name string) []byte {
	b, err := io.ReadAll(t.open(name))
	if err != nil {
		return nil
	}
	return b
}

func readLayer(r io.Reader) ([]entry, error) {
	var list []entry
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		e := entry{name: path.Clean("/" + h.Name)}
		e.node = node{
			kind: kinds[h.Typeflag], mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid,
			mtime: h.ModTime.Unix(), xattrs: map[string]string{},
		}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				e.node.xattrs[name] = v
			}
		}
		switch h.Typeflag {
		case tar.TypeReg:
			sum := sha256.New()
			if e.node.size, err = io.Copy(sum, tr); err != nil {
				return nil, err
			}
			e.node.sha256 = hex.EncodeToString(sum.Sum(nil))
		case tar.TypeLink:
			e.link = path.Clean("/" + h.Linkname)
		case tar.TypeSymlink:
			e.node.target = h.Linkname
		case tar.TypeChar, tar.TypeBlock:
			e.node.device = fmt.Sprintf("%d,%d", h.Devmajor, h.Devminor)
		}
		list = append(list, e)
	}
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// files merges the layers as an engine does. Names of one file share a node.
func (m *image) files() (map[string]*node, error) {
	all := map[string]*node{}
	for i, layer := range m.layers {
		for _, e := range layer { // what a layer deletes is of the layers below
			if base := path.Base(e.name); base == opaque {
				remove(all, path.Dir(e.name), false)
			} else if gone, ok := strings.CutPrefix(base, whiteout); ok {
				remove(all, path.Join(path.Dir(e.name), gone), true)
			}
		}
		for _, e := range layer {
			if strings.HasPrefix(path.Base(e.name), whiteout) {
				continue
			}
			n := &e.node
			if e.link != "" {
				if n = all[e.link]; n == nil {
					return nil, fmt.Errorf("layer %d: %s: hard link to %s, which is not there", i, e.name, e.link)
				}
			}
			if old := all[e.name]; old != nil && old.kind == "directory" && n.kind != "directory" {
				remove(all, e.name, false)
			}
			all[e.name] = n
		}
	}
	return all, nil
}

// remove takes what is below dir out of all, and dir itself if self is set.
func remove(all map[string]*node, dir string, self bool) {
	below := strings.TrimSuffix(dir, "/") + "/"
	for name := range all {
		if strings.HasPrefix(name, below) || self && name == dir {
			delete(all, name)
		}
	}
	if self {
		delete(all, dir)
	}
}

// hardLinks lists, for each path that is not the only name of its file, all of
// the names.
func hardLinks(files map[string]*node) map[string]string {
	names := map[*node][]string{}
	for name, n := range files {
		names[n] = append(names[n], name)
	}
	out := map[string]string{}
	for _, list := range names {
		if len(list) < 2 {
			continue
		}
		slices.Sort(list)
		for _, name := range list {
			out[name] = strings.Join(list, " ")
		}
	}
	return out
}
