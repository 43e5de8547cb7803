package whittle

import (
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/whittle-build/whittle/internal/image"
)

// File is a file that is written beside the outputs of a build: What says why, and Path where.
type File struct{ What, Path string }

// place is where something of a build goes.
type place struct {
	File
	at   string // without links
	kind string // of a folder: what it is filled with, which others may add to; "" is a file
}

// CheckOutputs finds names that two targets would have, and files that would be written twice:
// as two outputs, or as an output and one of those beside them.
func (r *Request) CheckOutputs(beside ...File) error {
	targets := append([]Target{{r.Target, r.Tags, r.Outputs}}, r.Targets...)
	if err := distinctNames(targets[1:]); err != nil {
		return err
	}
	var known []place
	for _, f := range beside {
		if f.Path != "" {
			known = append(known, place{f, landing(f.Path), ""})
		}
	}
	for _, t := range targets {
		for _, o := range t.Outputs {
			if p, ok := o.place(); ok {
				known = append(known, p)
			}
		}
	}
	for i, p := range known {
		if p.isDevice() {
			continue
		}
		for _, other := range known[:i] {
			if p.at == other.at && (p.kind == "" || p.kind != other.kind) {
				return &hinted{fmt.Errorf("%s %s: is the same file as %s %s", p.What, p.Path, other.What, other.Path), "give each a file or a folder of its own"}
			}
		}
	}
	return nil
}

// place is where an output goes on this machine's disk.
func (o *Output) place() (place, bool) {
	if o.Dest == "" || o.Dest == "-" {
		return place{}, false
	}
	p := place{File{"output", o.Dest}, landing(o.Dest), ""}
	if o.isFolder() {
		p.kind = o.Type
	}
	return p, true
}

// isDevice says whether what is written there is in nobody's way.
func (p *place) isDevice() bool {
	st, err := os.Stat(p.Path)
	return err == nil && st.Mode()&fs.ModeDevice != 0
}

// distinctNames refuses a name for the images of two targets: it would be that of the last.
func distinctNames(targets []Target) error {
	whose := map[image.Name]int{}
	for i, t := range targets {
		names := slices.Clone(t.Tags)
		for _, o := range t.Outputs {
			if o.Type == ImageOutput && !o.ByDigest {
				names = append(names, o.Names...)
			}
		}
		for _, text := range names {
			n, err := parseTag(text)
			if err != nil {
				return err
			}
			if k, ok := whose[n]; ok && k != i {
				return &hinted{fmt.Errorf("tag %s: the images of the targets %s and %s cannot both have it", text, targets[k].Stage, t.Stage), "give each a name of its own"}
			}
			whose[n] = i
		}
	}
	return nil
}
