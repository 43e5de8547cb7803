package copying

import (
	"io"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

func file(p string) entry.Entry { return entry.Entry{Path: p, Mode: 0o644} }
func folder(p string) entry.Entry {
	return entry.Entry{Path: p, Kind: entry.Dir, Mode: 0o755}
}
func symlink(p, target string) entry.Entry {
	return entry.Entry{Path: p, Kind: entry.Symlink, Mode: 0o777, Link: target}
}

func TestUsersAreLookedUpInTheImage(t *testing.T) {
	to := entry.NewMem()
	to.Add(file("etc/passwd"), "root:x:0:0::/root:/bin/sh\n\n  u:x:1000:1001::/:\nshort:x\nbad:x:ten:-3\nlast:x:5:6\nu:x:9:9\nhuge:x:4294967295:4294967296")
	to.Add(file("etc/group"), "# g:x:1:\ng:x:77:u,v\nnogid\n")
	tests := map[string][2]uint32{
		"":                     {0, 0},
		"root":                 {0, 0},
		"u":                    {1000, 1001},
		"u:g":                  {1000, 77},
		"u:":                   {1000, 0},
		"u:5":                  {1000, 5},
		"u:root":               {1000, 0},
		"u:none":               {1000, 1001},
		"u:nogid":              {1000, 0},
		":g":                   {0, 77},
		":":                    {0, 0},
		"1000":                 {1000, 1000}, // not looked up: u's group is 1001
		"7:g":                  {7, 77},
		"7:8":                  {7, 8},
		"7:8:9":                {7, 7}, // group "8:9"
		"none":                 {0, 0},
		"none:g":               {0, 77},
		"short":                {0, 0},
		"bad":                  {0, 0},
		"last":                 {5, 6},
		"huge":                 {0, 0},
		"-1":                   {0, 0},
		"+5":                   {5, 5},
		"4294967294":           {4294967294, 4294967294},
		"4294967295":           {0, 0}, // chown(2) would take it for no change
		"99999999999999999999": {0, 0},
		"0x10":                 {0, 0},
		"u\x00":                {0, 0},
	}
	for spec, want := range tests {
		uid, gid, err := User(to, spec)
		if err != nil || [2]uint32{uid, gid} != want {
			t.Errorf("User(%q) = %d:%d, %v; want %d:%d", spec, uid, gid, err, want[0], want[1])
		}
	}
}

// opened is a view that notes what is opened.
type opened struct {
	entry.FS
	paths *[]string
}

func (o opened) Open(p string) (io.ReadCloser, error) {
	*o.paths = append(*o.paths, p)
	return o.FS.Open(p)
}

// endless is a view whose /etc/passwd says that it is small and never ends.
type endless struct{ entry.FS }

func (endless) Open(string) (io.ReadCloser, error) {
	return io.NopCloser(zeros{}), nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestAttack08TablesThatAreTrapsAreRefused(t *testing.T) {
	small := entry.NewMem()
	small.Add(file("etc/passwd"), "u:x:1:1\n")
	traps := map[string]func(*entry.Mem) entry.FS{
		"fifo": func(m *entry.Mem) entry.FS {
			m.Add(entry.Entry{Path: "etc/passwd", Kind: entry.Fifo}, "")
			return m
		},
		"device": func(m *entry.Mem) entry.FS {
			m.Add(entry.Entry{Path: "etc/passwd", Kind: entry.Char, Major: 1, Minor: 5}, "")
			return m
		},
		"directory": func(m *entry.Mem) entry.FS { m.Add(folder("etc/passwd"), ""); return m },
		"link to fifo": func(m *entry.Mem) entry.FS {
			m.Add(entry.Entry{Path: "p", Kind: entry.Fifo}, "")
			m.Add(symlink("etc/passwd", "/p"), "")
			return m
		},
		"links in a circle": func(m *entry.Mem) entry.FS { m.Add(symlink("etc/passwd", "passwd"), ""); return m },
		"big file": func(m *entry.Mem) entry.FS {
			m.Add(file("etc/passwd"), strings.Repeat("x", maxTable+1))
			return m
		},
		"file without end": func(*entry.Mem) entry.FS { return endless{small} },
	}
	for name, trap := range traps {
		t.Run(name, func(t *testing.T) {
			var paths []string
			to := opened{trap(entry.NewMem()), &paths}
			if _, _, err := User(to, "u"); err == nil {
				t.Error("User: no error")
			}
			from := entry.NewMem()
			from.Add(file("a"), "A")
			r := Request{From: from, Sources: []string{"a"}, To: to, Dest: "/a", Chown: "u"}
			if _, _, err := planOne(r); err == nil {
				t.Error("Plan: no error")
			}
			if len(paths) > 0 && name != "file without end" {
				t.Errorf("opened %q", paths)
			}
			if uid, gid, err := User(to, "5:6"); uid != 5 || gid != 6 || err != nil {
				t.Errorf("numbers: %d:%d, %v; want them without reading a table", uid, gid, err)
			}
		})
	}
}

func TestAttack08ALinkOutOfTheImageIsReadInside(t *testing.T) {
	to := entry.NewMem()
	to.Add(file("passwd"), "u:x:7:8\n")
	to.Add(symlink("etc/passwd", "../../../../passwd"), "")
	if uid, gid, err := User(to, "u"); uid != 7 || gid != 8 || err != nil {
		t.Errorf("%d:%d, %v; want 7:8", uid, gid, err)
	}
}
