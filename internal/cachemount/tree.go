package cachemount

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/layer"
)

// tree is all of a cache but the bytes of its files.
type tree struct {
	packs []*pack
	files []*file
}

// file is one name. Parents come before what is in them; the first is ".".
type file struct {
	entry.Entry
	pieces []piece
	same   string // another name of the same file, which came before
}

// The form on disk is a sequence of JSON values: one head, a packText for each
// pack, and a fileText for each name.
type head struct {
	Format int `json:"format"`
	Packs  int `json:"packs"`
	Files  int `json:"files"`
}

const treeFormat = 1

type packText struct {
	Sums  []string `json:"sums"`
	Sizes []int    `json:"sizes"`
}

// fileText is a file. Texts that are no UTF-8 are in the fields whose names
// end in "raw".
type fileText struct {
	Path    string            `json:"path,omitempty"`
	PathRaw []byte            `json:"pathraw,omitempty"`
	Kind    string            `json:"kind,omitempty"` // dir or link; else a file
	Mode    uint32            `json:"mode"`
	UID     uint32            `json:"uid,omitempty"`
	GID     uint32            `json:"gid,omitempty"`
	Sec     int64             `json:"sec"`
	Nsec    uint32            `json:"ns,omitempty"`
	Pieces  []int             `json:"at,omitempty"` // numbers of pieces, counted over all packs
	Link    string            `json:"to,omitempty"` // of a link; of a file, the first name of it
	LinkRaw []byte            `json:"toraw,omitempty"`
	Xattrs  map[string][]byte `json:"xattrs,omitempty"`
}

const (
	kindDir  = "dir"
	kindLink = "link"
)

// write writes a tree; number says where pieces are.
func (t *tree) write(w io.Writer, number map[digest.Digest]int) error {
	buf := bufio.NewWriter(w)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(head{treeFormat, len(t.packs), len(t.files)}); err != nil {
		return err
	}
	for _, p := range t.packs {
		var text packText
		for _, x := range p.pieces {
			text.Sums = append(text.Sums, x.sum.Hex())
			text.Sizes = append(text.Sizes, x.size)
		}
		if err := enc.Encode(text); err != nil {
			return err
		}
	}
	for _, f := range t.files {
		if err := enc.Encode(f.text(number)); err != nil {
			return err
		}
	}
	return buf.Flush()
}

func (f *file) text(number map[digest.Digest]int) fileText {
	x := fileText{Mode: f.Mode, UID: f.UID, GID: f.GID, Sec: f.Mtime.Sec, Nsec: f.Mtime.Nsec}
	x.Path, x.PathRaw = texts(f.Path)
	to := f.same
	switch f.Kind {
	case entry.Dir:
		x.Kind = kindDir
	case entry.Symlink:
		x.Kind, to = kindLink, f.Entry.Link
	}
	x.Link, x.LinkRaw = texts(to)
	for _, p := range f.pieces {
		x.Pieces = append(x.Pieces, number[p.sum])
	}
	for n, v := range f.Xattrs {
		if x.Xattrs == nil {
			x.Xattrs = map[string][]byte{}
		}
		x.Xattrs[n] = []byte(v)
	}
	return x
}

func texts(s string) (string, []byte) {
	if utf8.ValidString(s) {
		return s, nil
	}
	return "", []byte(s)
}

// readTree reads and checks the tree of a cache.
func (f *folder) readTree(s *saved) (*tree, error) {
	d := s.manifest.Layers[0]
	b, err := f.blob(d, maxTree)
	if err != nil {
		return nil, err
	}
	plain, _, err := layer.Decompress(bytes.NewReader(b))
	if err == nil {
		defer plain.Close()
		var t *tree
		if t, err = decodeTree(io.LimitReader(plain, maxTree), s.manifest.Layers[1:]); err == nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("tree %s: %w", d.Digest.Short(), err)
}

func decodeTree(r io.Reader, blobs []manifest.Descriptor) (*tree, error) {
	dec := json.NewDecoder(r)
	var h head
	if err := dec.Decode(&h); err != nil {
		return nil, err
	}
	if h.Format != treeFormat {
		return nil, fmt.Errorf("format %d; this whittle knows format %d", h.Format, treeFormat)
	}
	if h.Packs != len(blobs) || h.Files < 1 || h.Files > maxEntries {
		return nil, fmt.Errorf("%d packs of %d, %d files", h.Packs, len(blobs), h.Files)
	}
	t := &tree{}
	var all []piece
	for i := range h.Packs {
		p := &pack{blob: blobs[i]}
		if err := p.decode(dec); err != nil {
			return nil, err
		}
		t.packs = append(t.packs, p)
		all = append(all, p.pieces...)
	}
	known := map[string]*file{}
	for range h.Files {
		f, err := decodeFile(dec, all)
		if err == nil {
			err = f.check(known)
		}
		if err != nil {
			return nil, fmt.Errorf("file %d: %w", len(t.files), err)
		}
		known[f.Path] = f
		t.files = append(t.files, f)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("more in it than it says")
	}
	return t, nil
}

func (p *pack) decode(dec *json.Decoder) error {
	var text packText
	if err := dec.Decode(&text); err != nil {
		return err
	}
	if len(text.Sums) != len(text.Sizes) || len(text.Sums) == 0 {
		return fmt.Errorf("pack of %d pieces and %d sizes", len(text.Sums), len(text.Sizes))
	}
	for i, s := range text.Sums {
		d, err := digest.ParseHex(s)
		if err != nil {
			return err
		}
		if n := text.Sizes[i]; n < 1 || n > maxPiece {
			return fmt.Errorf("piece of %d bytes", n)
		}
		p.pieces = append(p.pieces, piece{d, text.Sizes[i]})
	}
	if n := p.raw(); n > maxPack {
		return fmt.Errorf("pack of %d bytes, more than %d", n, maxPack)
	}
	return nil
}

func decodeFile(dec *json.Decoder, all []piece) (*file, error) {
	var x fileText
	if err := dec.Decode(&x); err != nil {
		return nil, err
	}
	f := &file{Entry: entry.Entry{
		Path: x.Path + string(x.PathRaw), Mode: x.Mode, UID: x.UID, GID: x.GID, Mtime: entry.Time{Sec: x.Sec, Nsec: x.Nsec},
	}}
	to := x.Link + string(x.LinkRaw)
	switch x.Kind {
	case "":
		f.Kind, f.same = entry.File, to
	case kindDir:
		f.Kind = entry.Dir
	case kindLink:
		f.Kind, f.Entry.Link = entry.Symlink, to
	default:
		return nil, fmt.Errorf("%q: kind %q", clip(f.Path), clip(x.Kind))
	}
	for _, n := range x.Pieces {
		if n < 0 || n >= len(all) {
			return nil, fmt.Errorf("%q: piece %d of %d", clip(f.Path), n, len(all))
		}
		f.pieces = append(f.pieces, all[n])
		f.Size += int64(all[n].size)
	}
	size := 0
	for n, v := range x.Xattrs {
		size += len(n) + len(v)
		if f.Xattrs == nil {
			f.Xattrs = map[string]string{}
		}
		f.Xattrs[n] = string(v)
	}
	if size > maxXattrs || f.Size > maxFile {
		return nil, fmt.Errorf("%q: %d bytes, and %d of attributes", clip(f.Path), f.Size, size)
	}
	f.Xattrs = attributes(f.Xattrs)
	return f, nil
}

// check refuses what no export writes. known are the names before this one.
func (f *file) check(known map[string]*file) error {
	if len(known) == 0 {
		if f.Path != "." || f.Kind != entry.Dir {
			return fmt.Errorf("%q: the first is not the folder itself", clip(f.Path))
		}
	} else if err := checkPath(f.Path, known); err != nil {
		return err
	}
	if f.Mode > 0o7777 || f.UID == math.MaxUint32 || f.GID == math.MaxUint32 || f.Mtime.Nsec >= 1e9 {
		return fmt.Errorf("%q: mode %o, owner %d:%d", clip(f.Path), f.Mode, f.UID, f.GID)
	}
	switch {
	case f.Kind != entry.File && len(f.pieces) > 0, f.same != "" && len(f.pieces) > 0:
		return fmt.Errorf("%q: has content and cannot have any", clip(f.Path))
	case f.Kind == entry.Symlink && (f.Entry.Link == "" || len(f.Entry.Link) > maxLink || strings.IndexByte(f.Entry.Link, 0) >= 0):
		return fmt.Errorf("%q: a link to %q", clip(f.Path), clip(f.Entry.Link))
	}
	if f.same == "" {
		return nil
	}
	if first := known[f.same]; first == nil || first.Kind != entry.File || first.same != "" {
		return fmt.Errorf("%q: another name of %q, which is no file before it", clip(f.Path), clip(f.same))
	}
	return nil
}

func checkPath(p string, known map[string]*file) error {
	if p == "" || len(p) > maxPath || strings.IndexByte(p, 0) >= 0 {
		return fmt.Errorf("%q: not a path", clip(p))
	}
	for el := range strings.SplitSeq(p, "/") {
		if el == "" || el == "." || el == ".." || len(el) > maxName {
			return fmt.Errorf("%q: not a path inside", clip(p))
		}
	}
	if known[p] != nil {
		return fmt.Errorf("%q: is there twice", clip(p))
	}
	if up := known[entry.Parent(p)]; up == nil || up.Kind != entry.Dir {
		return fmt.Errorf("%q: its folder did not come before it", clip(p))
	}
	return nil
}

// attributes are the extended attributes that travel: those of a layer but for
// the ones of this machine's root.
func attributes(attrs map[string]string) map[string]string {
	var out map[string]string
	for n, v := range layer.KeptXattrs(attrs) {
		if strings.HasPrefix(n, "trusted.") {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[n] = v
	}
	return out
}

// clip shortens a hostile text for a message.
func clip(s string) string {
	if len(s) <= 256 {
		return s
	}
	return s[:256] + "…"
}
