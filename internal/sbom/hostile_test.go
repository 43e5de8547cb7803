package sbom

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// header is one of rpm, with an entry for each of tags at the text of the same place.
func header(tags []uint32, texts []string, same bool) []byte {
	data, index := []byte{}, []byte{}
	for i, tag := range tags {
		at := len(data)
		if same && i > 0 {
			at = 0
		} else {
			data = append(append(data, texts[i]...), 0)
		}
		for _, n := range []uint32{tag, 6, uint32(at), 1} {
			index = binary.BigEndian.AppendUint32(index, n)
		}
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(len(tags)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
	return append(append(out, index...), data...)
}

func putVarint(b []byte, n int) []byte {
	return append(b, 0x80|byte(n>>14), 0x80|byte(n>>7&0x7f), byte(n&0x7f))
}

// row is a cell of a table: its columns are texts, numbers below 128, and what is more than
// that a blob.
func row(columns ...any) []byte {
	types, data := []byte{}, []byte{}
	for _, c := range columns {
		switch c := c.(type) {
		case int:
			types, data = append(types, 1), append(data, byte(c))
		case string:
			types, data = putVarint(types, 13+2*len(c)), append(data, c...)
		case []byte:
			types, data = putVarint(types, 12+2*len(c)), append(data, c...)
		}
	}
	payload := append(append([]byte{byte(1 + len(types))}, types...), data...)
	return append(append(putVarint(nil, len(payload)), 1), payload...)
}

// leafPage is a page of 64 KiB with cell, which is listed n times.
func leafPage(first bool, cell []byte, n int) []byte {
	p := make([]byte, 65536)
	head := p
	if first {
		copy(p, "SQLite format 3\x00\x00\x01")
		head = p[100:]
	}
	head[0] = 13
	binary.BigEndian.PutUint16(head[3:], uint16(n))
	for i := range n {
		binary.BigEndian.PutUint16(head[8+2*i:], uint16(len(p)-len(cell)))
	}
	copy(p[len(p)-len(cell):], cell)
	return p
}

// packages is a database of rpm with one header, n times.
func packages(h []byte, n int) []byte {
	return append(leafPage(true, row("table", "Packages", "Packages", 2, ""), 1), leafPage(false, row(7, h), n)...)
}

var someTags = []uint32{rpmName, rpmVersion, rpmRelease, rpmLicense, rpmArch}

// TestADatabaseIsVisitedOnce: a cell that is listed many times does not make the work more
// than the file is long.
func TestADatabaseIsVisitedOnce(t *testing.T) {
	h := header(someTags, []string{"a", "1", "2", "MIT", strings.Repeat("x", 30000)}, false)
	for name, c := range map[string]struct {
		cells, most int
		want        error
	}{"sound": {1, 1, nil}, "one cell many times": {13155, 30, errBroken}} {
		b := packages(h, c.cells)
		db, err := openSQLite(b)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		if err := db.rows(t.Context(), 2, 0, func([]value) { seen++ }); !errors.Is(err, c.want) || seen < 1 || seen > c.most {
			t.Errorf("%s: %d rows, %v", name, seen, err)
		}
	}
}

func TestADatabaseAsksTheContext(t *testing.T) {
	db, err := openSQLite(packages(header(someTags, []string{"a", "1", "2", "MIT", "x"}, false), 1000))
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	seen := 0
	err = db.rows(ctx, 2, 0, func([]value) { seen++; cancel(cause) })
	if !errors.Is(err, cause) || seen != 1 {
		t.Errorf("%d rows, %v", seen, err)
	}
	if v, err := Scan(ctx, files(nil)); !errors.Is(err, cause) {
		t.Errorf("%v, %v", v, err)
	}
}

// TestPagesInACircle: pages that list each other end.
func TestPagesInACircle(t *testing.T) {
	b := packages(nil, 1)
	p := b[65536:]
	clear(p)
	p[0] = 5
	binary.BigEndian.PutUint16(p[3:], 20000)
	binary.BigEndian.PutUint32(p[8:], 2)
	for i := range 20000 {
		binary.BigEndian.PutUint16(p[12+2*i:], 8) // where a 2 stands
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	v, err := Scan(ctx, files(map[string]string{"var/lib/rpm/rpmdb.sqlite": string(b)}))
	if err != nil || len(v.Missed) != 1 || v.Missed[0].Why != errBroken.Error() {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestAHeaderIsReadForWhatCounts: each tag may be at the same text; it is kept once for each
// that is used, and no longer than it may be.
func TestAHeaderIsReadForWhatCounts(t *testing.T) {
	var tags []uint32
	for i := range uint32(60000) {
		tags = append(tags, 2000+i)
	}
	tags = append(tags, someTags...)
	tags = append(tags, someTags...)
	b := header(tags, []string{strings.Repeat("x", 1<<20)}, true)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h, ok := readHeader(b)
	runtime.ReadMemStats(&after)
	if !ok || len(h) != len(someTags) || len(h[rpmName]) != maxText+1 {
		t.Errorf("%d tags, %d bytes of a name, %v", len(h), len(h[rpmName]), ok)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("a header of 2 MB took %d bytes", n)
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	s := newScanner(t.Context(), files(nil))
	s.kept = maxKept - 2*perPackage
	for _, name := range []string{"a", "b", "c"} {
		s.add(Package{Name: name, Version: "1", URL: name, Found: "f"})
	}
	if len(s.out.Packages) != 1 || len(s.out.Missed) != 1 || s.out.Missed[0].Path != "f" {
		t.Errorf("%+v", s.out)
	}
}

// TestWhatIsMissedIsTold: of each document about packages that is not read to its end the
// inventory says so, and nothing of one that is.
func TestWhatIsMissedIsTold(t *testing.T) {
	const status = "Package: a\nVersion: 1\n"
	sound := header(someTags, []string{"a", "1", "2", "MIT", "x"}, false)
	for name, c := range map[string]struct {
		files    map[string]string
		links    map[string]string
		packages int
		want     string // path: part of the reason
	}{
		"dpkg":                {map[string]string{"var/lib/dpkg/status": status}, nil, 1, ""},
		"dpkg through a link": {map[string]string{"opt/status": status}, map[string]string{"var/lib/dpkg/status": "../../../../opt/status"}, 1, ""},
		"dpkg behind a link":  {map[string]string{"opt/dpkg/status": status}, map[string]string{"var/lib/dpkg": "/opt/dpkg"}, 1, ""},
		"parts behind a link": {map[string]string{"opt/a": status}, map[string]string{"var/lib/dpkg/status.d": "/opt", "opt/b": "a"}, 1, ""},
		"a link to nothing":   {nil, map[string]string{"var/lib/dpkg/status": "/none"}, 0, "var/lib/dpkg/status: not there"},
		"a circle":            {nil, map[string]string{"var/lib/dpkg/status": "status"}, 0, "var/lib/dpkg/status: lead nowhere"},
		"a folder":            {map[string]string{"var/lib/dpkg/status/x": ""}, nil, 0, "var/lib/dpkg/status: no file"},
		"rpm":                 {map[string]string{"var/lib/rpm/rpmdb.sqlite": string(packages(sound, 1)), "var/lib/rpm/rpmdb.sqlite-wal": ""}, nil, 1, ""},
		"rpm behind a link":   {map[string]string{"usr/lib/sysimage/rpm/rpmdb.sqlite": string(packages(sound, 1))}, map[string]string{"var/lib/rpm": "../../usr/lib/sysimage/rpm"}, 1, ""},
		"no database":         {map[string]string{"var/lib/rpm/rpmdb.sqlite": "x"}, nil, 0, "var/lib/rpm/rpmdb.sqlite: is not a database"},
		"cut off":             {map[string]string{"var/lib/rpm/rpmdb.sqlite": string(packages(sound, 1)[:65536])}, nil, 0, "var/lib/rpm/rpmdb.sqlite: broken"},
		"no table":            {map[string]string{"var/lib/rpm/rpmdb.sqlite": string(leafPage(true, nil, 0))}, nil, 0, "var/lib/rpm/rpmdb.sqlite: is not a database"},
		"no header":           {map[string]string{"var/lib/rpm/rpmdb.sqlite": string(packages([]byte("x"), 1))}, nil, 0, "var/lib/rpm/rpmdb.sqlite: broken"},
		"changes beside it":   {map[string]string{"var/lib/rpm/rpmdb.sqlite": string(packages(sound, 1)), "var/lib/rpm/rpmdb.sqlite-wal": "x"}, nil, 1, "var/lib/rpm/rpmdb.sqlite: -wal"},
		"an older form":       {map[string]string{"var/lib/rpm/Packages": "x"}, nil, 0, "var/lib/rpm/Packages: older form"},
		"npm":                 {map[string]string{"node_modules/a/package.json": "\uFEFF{\"name\":\"a\",\"version\":\"1\"}", "node_modules/b/package.json": "{}"}, nil, 1, ""},
		"broken npm":          {map[string]string{"node_modules/a/package.json": "{"}, nil, 0, "node_modules/a/package.json: no manifest"},
		"a linked manifest":   {map[string]string{"cache/a.dist-info/METADATA": "Name: a\nVersion: 1\n"}, map[string]string{"a.dist-info/METADATA": "/cache/a.dist-info/METADATA"}, 1, ""},
		"linked elsewhere":    {map[string]string{"cache/x": "Name: a\nVersion: 1\n"}, map[string]string{"a.dist-info/METADATA": "/cache/x"}, 0, "a.dist-info/METADATA: symbolic link"},
		"no text":             {map[string]string{"lib/apk/db/installed": "P:a\x1b\nV:1\n"}, nil, 0, "lib/apk/db/installed: no text"},
		"a path with a line":  {map[string]string{"a\n/node_modules/a/package.json": "{"}, nil, 0, `"a\n/node_modules/a/package.json": no manifest`},
	} {
		t.Run(name, func(t *testing.T) {
			m := files(c.files)
			for p, to := range c.links {
				m.Add(entry.Entry{Path: p, Kind: entry.Symlink, Mode: 0o777, Link: to}, "")
			}
			v, err := Scan(t.Context(), m)
			if err != nil || len(v.Packages) != c.packages {
				t.Fatalf("%+v, %v", v, err)
			}
			comment := v.SPDX("x", digest.Of(nil), time.Unix(0, 0), func(string) string { return "" }).Comment
			if c.want == "" {
				if v.Missed != nil || comment != "" {
					t.Errorf("missed %v, %q", v.Missed, comment)
				}
				return
			}
			path, why, _ := strings.Cut(c.want, ": ")
			gaps := v.Gaps()
			if len(gaps) != 1 || !strings.HasPrefix(gaps[0], path+": ") || !strings.Contains(gaps[0], why) {
				t.Errorf("missed %q, want %q", gaps, c.want)
			}
			if !strings.HasPrefix(comment, "Incomplete") || !strings.Contains(comment, gaps[0]) {
				t.Errorf("comment %q", comment)
			}
		})
	}
}

// TestFewAreTold: an image with many broken documents gets a short list.
func TestFewAreTold(t *testing.T) {
	m := map[string]string{}
	for range maxMissed + 7 {
		m[strings.Repeat("d/", len(m))+"node_modules/a/package.json"] = "{"
	}
	v, err := Scan(t.Context(), files(m))
	if err != nil || len(v.Missed) != maxMissed || v.Gaps()[maxMissed] != "and 7 more" {
		t.Errorf("%q, %v", v.Gaps(), err)
	}
}

// TestAReplacementHidesNothing: what stands before a module that is not taken stays.
func TestAReplacementHidesNothing(t *testing.T) {
	s := newScanner(t.Context(), files(nil))
	s.golang("app", "dep\ta\tv1\ndep\tb\x01\tv1\n=>\tc\tv1\n=>\td\tv1\n")
	var got []string
	for _, p := range s.out.Packages {
		got = append(got, p.Name)
	}
	if strings.Join(got, " ") != "a d" {
		t.Errorf("got %q", got)
	}
}
