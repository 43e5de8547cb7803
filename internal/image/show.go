package image

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/whittle-build/whittle/internal/progress"
)

// HumanSize writes a number of bytes as docker images does, with three digits:
// 13.3kB, 1.24MB.
func HumanSize(n int64) string {
	r, err := strconv.ParseFloat(strconv.FormatFloat(float64(n), 'g', 3, 64), 64)
	if err != nil {
		return progress.HumanSize(n)
	}
	return progress.HumanSize(int64(r))
}

// HumanAge writes how long ago something was, as docker does: "3 weeks ago".
func HumanAge(d time.Duration) string {
	seconds, minutes, hours := int(d.Seconds()), int(d.Minutes()), int(d.Hours()+0.5)
	switch {
	case seconds < 1:
		return "Less than a second ago"
	case seconds == 1:
		return "1 second ago"
	case minutes < 1:
		return fmt.Sprintf("%d seconds ago", seconds)
	case minutes == 1:
		return "About a minute ago"
	case minutes < 60:
		return fmt.Sprintf("%d minutes ago", minutes)
	case hours == 1:
		return "About an hour ago"
	case hours < 48:
		return fmt.Sprintf("%d hours ago", hours)
	case hours < 24*7*2:
		return fmt.Sprintf("%d days ago", hours/24)
	case hours < 24*30*2:
		return fmt.Sprintf("%d weeks ago", hours/24/7)
	case hours < 24*365*2:
		return fmt.Sprintf("%d months ago", hours/24/30)
	}
	return fmt.Sprintf("%d years ago", hours/24/365)
}

// age writes the age of something made at t; docker shows N/A for images
// whose config has no date.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return HumanAge(now.Sub(t))
}

// View says how lists are shown. The zero value shortens IDs and texts as
// docker does.
type View struct {
	Now     time.Time
	Quiet   bool // IDs only
	NoTrunc bool // whole IDs and texts
	Digests bool // a column with the manifests' digests
}

// createdAt is how docker writes a time in a list.
const createdAt = "2006-01-02 15:04:05 -0700 MST"

func (v View) id(s Summary) string {
	if v.NoTrunc {
		return s.Image.ID.String()
	}
	return s.Image.ID.Short()
}

// Row is one line of the list of images.
type Row struct {
	Repository string `json:"Repository"`
	Tag        string `json:"Tag"`
	Digest     string `json:"Digest"`
	ID         string `json:"ID"`
	Created    string `json:"CreatedAt"`
	Since      string `json:"CreatedSince"`
	Size       string `json:"Size"`
	Bytes      int64  `json:"Bytes"`
}

const none = "<none>"

// Rows returns the lines of the list: one for each tag of an image, one for an
// image without any.
func (v View) Rows(list []Summary) []Row {
	var out []Row
	for _, s := range list {
		row := Row{
			Repository: none, Tag: none, Digest: none, ID: v.id(s),
			Created: s.Image.Created.Local().Format(createdAt), Since: age(s.Image.Created, v.Now),
			Size: HumanSize(s.Image.Size()), Bytes: s.Image.Size(),
		}
		tagged := false
		for _, n := range s.Names {
			if n.Tag == "" {
				continue
			}
			tagged = true
			one := row
			one.Repository, one.Tag = n.FamiliarRepository(), n.Tag
			if d, ok := s.digestFor(n); ok {
				one.Digest = d
			}
			out = append(out, one)
		}
		if tagged {
			continue
		}
		if len(s.Names) > 0 {
			row.Repository, row.Digest = s.Names[0].FamiliarRepository(), s.Names[0].Digest.String()
		}
		out = append(out, row)
	}
	return out
}

// digestFor returns the manifest digest that is known under n's repository.
func (s Summary) digestFor(n Name) (string, bool) {
	for _, r := range s.repoDigests() {
		if repo, d, _ := strings.Cut(r, "@"); repo == n.FamiliarRepository() {
			return d, true
		}
	}
	return "", false
}

// WriteList prints the list of images as docker images does.
func (v View) WriteList(w io.Writer, list []Summary) error {
	if v.Quiet {
		for _, s := range list {
			if _, err := fmt.Fprintln(w, v.id(s)); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(w)
	row := func(repository, tag, digest, id, created, size string) {
		if v.Digests {
			t.row(repository, tag, digest, id, created, size)
		} else {
			t.row(repository, tag, id, created, size)
		}
	}
	row("REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE")
	for _, r := range v.Rows(list) {
		row(r.Repository, r.Tag, r.Digest, r.ID, r.Since, r.Size)
	}
	return t.flush()
}

// table aligns columns with three blanks between them.
type table struct {
	w   *tabwriter.Writer
	err error
}

func newTable(w io.Writer) *table {
	return &table{w: tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)}
}

// row writes one line. Control characters, which a foreign config may hold,
// must not reach a terminal.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = progress.Clean(c)
	}
	if _, err := fmt.Fprintln(t.w, strings.Join(cells, "\t")); err != nil && t.err == nil {
		t.err = err
	}
}

func (t *table) flush() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Flush()
}
