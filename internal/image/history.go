package image

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/whittle-build/whittle/internal/config"
)

// Change is one line of an image's history.
type Change struct {
	ID        string // "<missing>" below the top: steps have no image of their own
	Created   *time.Time
	CreatedBy string
	Size      int64
	Comment   string
}

// History returns the image's history, the last change first. Layers that
// the config's history does not tell of come last, so that sizes always add
// up.
func (m *Image) History() []Change {
	var out []Change
	layer := 0
	for _, h := range m.Config.History {
		c := Change{ID: "<missing>", Created: h.Created, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer && layer < len(m.Layers) {
			c.Size = m.Layers[layer].Size
			layer++
		}
		out = append(out, c)
	}
	for ; layer < len(m.Layers); layer++ {
		out = append(out, Change{ID: "<missing>", Size: m.Layers[layer].Size, Comment: "a layer without history"})
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID = m.ID.String()
	}
	return out
}

// ChangeRow is a line of the history as it is shown, with docker's names.
type ChangeRow struct {
	ID        string `json:"ID"`
	Created   string `json:"CreatedAt"`
	Since     string `json:"CreatedSince"`
	CreatedBy string `json:"CreatedBy"`
	Size      string `json:"Size"`
	Bytes     int64  `json:"Bytes"`
	Comment   string `json:"Comment"`
}

// ChangeRows returns the lines of m's history.
func (v View) ChangeRows(m *Image) []ChangeRow {
	var out []ChangeRow
	for _, c := range m.History() {
		r := ChangeRow{ID: v.historyID(c), Since: "N/A", CreatedBy: v.createdBy(c.CreatedBy),
			Size: HumanSize(c.Size), Bytes: c.Size, Comment: c.Comment}
		if c.Created != nil {
			r.Created, r.Since = c.Created.Local().Format(time.RFC3339), age(*c.Created, v.Now)
		}
		out = append(out, r)
	}
	return out
}

// maxCreatedBy is how much of an instruction docker history shows.
const maxCreatedBy = 45

// WriteHistory prints the history of m as docker history does.
func (v View) WriteHistory(w io.Writer, m *Image) error {
	rows := v.ChangeRows(m)
	if v.Quiet {
		for _, r := range rows {
			if _, err := fmt.Fprintln(w, r.ID); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(w)
	t.row("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT")
	for _, r := range rows {
		t.row(r.ID, r.Since, r.CreatedBy, r.Size, r.Comment)
	}
	return t.flush()
}

func (v View) historyID(c Change) string {
	if v.NoTrunc || c.ID == "<missing>" {
		return c.ID
	}
	return c.ID[len("sha256:"):][:12]
}

func (v View) createdBy(s string) string {
	r := []rune(s)
	if v.NoTrunc || len(r) <= maxCreatedBy {
		return s
	}
	return string(r[:maxCreatedBy-1]) + "…"
}

// Details is what docker inspect prints of an image.
type Details struct {
	ID           string        `json:"Id"`
	RepoTags     []string      `json:"RepoTags"`
	RepoDigests  []string      `json:"RepoDigests"`
	Parent       string        `json:"Parent"`
	Comment      string        `json:"Comment"`
	Created      string        `json:"Created"`
	Author       string        `json:"Author"`
	Config       config.Config `json:"Config"`
	Architecture string        `json:"Architecture"`
	Variant      string        `json:"Variant,omitempty"`
	Os           string        `json:"Os"`
	OsVersion    string        `json:"OsVersion,omitempty"`
	Size         int64         `json:"Size"`
	RootFS       RootFS        `json:"RootFS"`
	Metadata     Metadata      `json:"Metadata"`
}

// RootFS lists the layers of an image by diffID.
type RootFS struct {
	Type   string   `json:"Type"`
	Layers []string `json:"Layers,omitempty"`
}

// Metadata is what the store knows of an image beyond its config.
type Metadata struct {
	LastTagTime time.Time `json:"LastTagTime"`
}

// Inspect returns what docker inspect prints. Lists are never null.
func (s Summary) Inspect() Details {
	m := s.Image
	d := Details{
		ID: m.ID.String(), RepoTags: []string{}, RepoDigests: s.repoDigests(),
		Author: m.Config.Author, Config: m.Config.Config.Clone(),
		Architecture: m.Config.Architecture, Variant: m.Config.Variant, Os: m.Config.OS, OsVersion: m.Config.OSVersion,
		Size: m.Size(), RootFS: RootFS{Type: "layers"}, Metadata: Metadata{LastTagTime: s.Tagged},
	}
	if !m.Created.IsZero() {
		d.Created = m.Created.Format(time.RFC3339Nano)
	}
	if n := len(m.Config.History); n > 0 {
		d.Comment = m.Config.History[n-1].Comment
	}
	for _, n := range s.Names {
		if n.Tag != "" {
			d.RepoTags = append(d.RepoTags, n.Familiar())
		}
	}
	for _, l := range m.Layers {
		d.RootFS.Layers = append(d.RootFS.Layers, l.DiffID.String())
	}
	return d
}

// repoDigests lists the names by digest: those given, and the one that the
// image was pulled by.
func (s Summary) repoDigests() []string {
	out := []string{}
	seen := map[string]bool{}
	add := func(n Name) {
		n.Tag = ""
		if f := n.Familiar(); !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	for _, n := range s.Names {
		if !n.Digest.IsZero() {
			add(n)
		}
	}
	if n, err := ParseName(s.Image.Source); err == nil && !s.Image.Manifest.IsZero() {
		n.Digest = s.Image.Manifest
		add(n)
	}
	return out
}
