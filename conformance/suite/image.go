package suite

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// An Image is what an archive of docker's holds: the config as it was written
// and the layers' entries, lowest first.
type Image struct {
	config  []byte
	diffIDs []string
	layers  [][]entry
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
	text   string // the content, if it is a short text
	isText bool
	target string // of a symbolic link
	device string // major,minor
	mtime  int64
	xattrs map[string]string
}

var kinds = map[byte]string{
	tar.TypeReg: "file", tar.TypeLink: "hard link", tar.TypeSymlink: "symlink", tar.TypeDir: "directory",
	tar.TypeFifo: "fifo", tar.TypeChar: "character device", tar.TypeBlock: "block device",
}

// LayerCache keeps the layers that were read, by diffID: bases come again and
// again.
type LayerCache struct {
	mu    sync.Mutex
	known map[string][]entry
}

// NewLayerCache returns an empty cache.
func NewLayerCache() *LayerCache { return &LayerCache{known: map[string][]entry{}} }

// ReadImage reads the image of an archive: an OCI layout's only one or the
// first one of a docker archive.
func (c *LayerCache) ReadImage(archive string) (*Image, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	members, err := locate(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	config, layers, err := members.parts()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	var ids struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	img := &Image{config: members.text(config)}
	if err := json.Unmarshal(img.config, &ids); err != nil {
		return nil, fmt.Errorf("%s: config: %w", archive, err)
	}
	if len(ids.RootFS.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("%s: %d diffIDs for %d layers", archive, len(ids.RootFS.DiffIDs), len(layers))
	}
	img.diffIDs = ids.RootFS.DiffIDs
	for i, name := range layers {
		layer, err := c.layer(ids.RootFS.DiffIDs[i], members.open(name))
		if err != nil {
			return nil, fmt.Errorf("%s: layer %d: %w", archive, i, err)
		}
		img.layers = append(img.layers, layer)
	}
	return img, nil
}

// parts names the members that are the config and the layers.
func (t *table) parts() (config string, layers []string, err error) {
	if _, docker := t.extents["manifest.json"]; docker {
		var list []struct {
			Config string
			Layers []string
		}
		if err := json.Unmarshal(t.text("manifest.json"), &list); err != nil || len(list) == 0 {
			return "", nil, fmt.Errorf("manifest.json: %d images: %w", len(list), err)
		}
		return list[0].Config, list[0].Layers, nil
	}
	type descriptor struct{ Digest string }
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(t.text("index.json"), &index); err != nil || len(index.Manifests) != 1 {
		return "", nil, fmt.Errorf("index.json: %d manifests: %w", len(index.Manifests), err)
	}
	var m struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.Unmarshal(t.text(blob(index.Manifests[0].Digest)), &m); err != nil {
		return "", nil, fmt.Errorf("manifest: %w", err)
	}
	for _, l := range m.Layers {
		layers = append(layers, blob(l.Digest))
	}
	return blob(m.Config.Digest), layers, nil
}

func blob(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

// layer reads a layer's tar, once for each diffID, which it must have.
func (c *LayerCache) layer(diffID string, r io.Reader) ([]entry, error) {
	c.mu.Lock()
	known, ok := c.known[diffID]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	buffered := bufio.NewReader(r)
	r = buffered
	if magic, err := buffered.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		if r, err = gzip.NewReader(buffered); err != nil {
			return nil, err
		}
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
		e := entry{name: showName(path.Clean("/" + h.Name))}
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
			if err := e.node.read(tr); err != nil {
				return nil, err
			}
		case tar.TypeLink:
			e.link = showName(path.Clean("/" + h.Linkname))
		case tar.TypeSymlink:
			e.node.target = h.Linkname
		case tar.TypeChar, tar.TypeBlock:
			e.node.device = fmt.Sprintf("%d,%d", h.Devmajor, h.Devminor)
		}
		list = append(list, e)
	}
}

// longest is the length of texts that outcomes show.
const longest = 1000

func (n *node) read(r io.Reader) error {
	sum := sha256.New()
	head, err := io.ReadAll(io.TeeReader(io.LimitReader(r, longest+1), sum))
	if err != nil {
		return err
	}
	rest, err := io.Copy(sum, r)
	if err != nil {
		return err
	}
	n.size = int64(len(head)) + rest
	n.sha256 = hex.EncodeToString(sum.Sum(nil))
	if n.size <= longest && utf8.Valid(head) && !bytes.ContainsRune(head, 0) {
		n.text, n.isText = string(head), true
	}
	return nil
}

// showName makes a name that is no UTF-8 one that JSON can hold.
func showName(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strconv.QuoteToASCII(name)
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// merge stacks layers as an engine does. Names of one file share a node.
func merge(layers [][]entry) (map[string]*node, error) {
	all := map[string]*node{}
	for i, layer := range layers {
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

// A Path is what an unpacker has to make of a path.
type Path struct {
	Kind     string
	Mode     int64
	UID, GID int
	Size     int64
}

// Paths returns the file system of an image.
func (m *Image) Paths() (map[string]Path, error) {
	all, err := merge(m.layers)
	if err != nil {
		return nil, err
	}
	out := map[string]Path{}
	for name, n := range all {
		out[name] = Path{n.kind, n.mode, n.uid, n.gid, n.size}
	}
	return out, nil
}
