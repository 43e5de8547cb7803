package copying

import (
	"errors"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

func TestAttack09AWorkingDirectoryStaysInside(t *testing.T) {
	to := view(t, `d 0755 0:0 @1 data`, `l 0777 0:0 @1 abs -> /data`, `l 0777 0:0 @1 up -> ../../../../../data`,
		`l 0777 0:0 @1 dangling -> /proc/self/fd/7`, `f 0644 0:0 @1 file "F"`, `l 0777 0:0 @1 loop -> loop`)
	tests := map[string][]string{
		"/abs/x":          {`d 0755 0:0 @now data`, `d 0755 5:6 @now data/x`},
		"/up/x":           {`d 0755 0:0 @now data`, `d 0755 5:6 @now data/x`},
		"/../../data/x":   {`d 0755 0:0 @now data`, `d 0755 5:6 @now data/x`},
		"/abs":            nil,
		"/data/":          nil,
		"/":               nil,
		"":                nil,
		"/proc/self/fd/9": {`d 0755 5:6 @now proc`, `d 0755 5:6 @now proc/self`, `d 0755 5:6 @now proc/self/fd`, `d 0755 5:6 @now proc/self/fd/9`},
		"/dangling":       {`d 0755 5:6 @now proc`, `d 0755 5:6 @now proc/self`, `d 0755 5:6 @now proc/self/fd`, `d 0755 5:6 @now proc/self/fd/7`},
	}
	for dir, want := range tests {
		items, err := Workdir(to, dir, 5, 6, testNow)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		list, err := listOf(items)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(dir, func(t *testing.T) { checkShow(t, list, nil, want...) })
	}
	var conflict *Conflict
	if _, err := Workdir(to, "/file/x", 0, 0, testNow); !errors.As(err, &conflict) || conflict.Path != "/file" {
		t.Errorf("under a file: %v, want a conflict with /file", err)
	}
	if _, err := Workdir(to, "/loop/x", 0, 0, testNow); !errors.Is(err, entry.ErrLoop) {
		t.Errorf("links in a circle: %v, want %v", err, entry.ErrLoop)
	}
}

func TestAttack14ALinkOutOfTheImageIsFollowedInside(t *testing.T) {
	from := view(t, `f 0644 0:0 @1 a "A"`)
	to := view(t, `l 0777 0:0 @1 out -> ../../../../../../tmp/host`, `l 0777 0:0 @1 abs -> /tmp/host`)
	for _, dest := range []string{"/out/", "/abs/", "/../../tmp/host/", "/out/../../abs/", "/out/.", "tmp/host/"} {
		items := plan(t, Request{From: from, Sources: []string{"a"}, To: to, Dest: dest})
		want := []string{`d 0755 0:0 @now tmp`, `d 0755 0:0 @now tmp/host`, `f 0644 0:0 @1 tmp/host/a "A"`}
		t.Run(dest, func(t *testing.T) { checkShow(t, items, from, want...) })
	}
}

func TestAttack15SourcesNeverLeaveTheirRoot(t *testing.T) {
	from := view(t, `l 0777 0:0 @1 etc -> /../../../etc`, `l 0777 0:0 @1 exe -> /proc/self/exe`, `f 0644 0:0 @1 bin/whittle "image's"`)
	var missing *NotFound
	for _, s := range []string{"etc", "exe", "/proc/self/exe", "../../../etc/passwd", "etc/passwd"} {
		_, _, err := planOne(Request{From: from, Sources: []string{s}, To: entry.NewMem(), Dest: "/"})
		if !errors.As(err, &missing) && !errors.Is(err, entry.ErrLoop) {
			t.Errorf("%s: %v, want *NotFound", s, err)
		}
	}
}

func TestAttack19AContextsLinkOutIsCopiedAsALink(t *testing.T) {
	from := view(t, `d 0755 0:0 @1 d`, `l 0777 0:0 @1 d/out -> /etc/shadow`, `l 0777 0:0 @1 d/up -> ../../../../etc/shadow`, `l 0777 0:0 @1 top -> /etc/shadow`)
	items := plan(t, Request{From: from, Sources: []string{"d"}, FromContext: true, To: entry.NewMem(), Dest: "/"})
	checkShow(t, items, from, `l 0777 0:0 @1 out -> /etc/shadow`, `l 0777 0:0 @1 up -> ../../../../etc/shadow`)
	var missing *NotFound
	if _, err := Match(Request{From: from, Sources: []string{"top"}}); !errors.As(err, &missing) {
		t.Errorf("a source that is such a link: %v, want *NotFound", err)
	}
}

func TestAttack19ParentsFollowNoLinkOutOfTheContext(t *testing.T) {
	from := view(t, `d 0755 0:0 @1 d`, `l 0777 0:0 @1 d/out -> /etc`, `l 0777 0:0 @1 top -> ../../etc`)
	for _, s := range []string{"d/out/passwd", "top/passwd", "top/./passwd", "top/./*", "d/out/./*"} {
		r := Request{From: from, Sources: []string{PathWithParents(s)}, Parents: true, FromContext: true, To: entry.NewMem(), Dest: "/"}
		var missing *NotFound
		if _, _, err := planOne(r); !errors.As(err, &missing) {
			t.Errorf("%s: %v, want *NotFound", s, err)
		}
	}
	items := plan(t, Request{From: from, Sources: []string{PathWithParents("**/out")}, Parents: true, FromContext: true, To: entry.NewMem(), Dest: "/x"})
	checkShow(t, items, from, `d 0755 0:0 @now x`, `d 0755 0:0 @now x/d`, `l 0777 0:0 @1 x/d/out -> /etc`)
}

// crooked is a view that breaks its promises.
type crooked struct {
	entry.FS
	kid entry.Entry
}

func (c crooked) ReadDir(p string) ([]entry.Entry, error) {
	if p == "." {
		return []entry.Entry{c.kid}, nil
	}
	return nil, nil
}

func TestNamesThatNoDirectoryHoldsAreRefused(t *testing.T) {
	for _, kid := range []entry.Entry{
		{Path: "a/..", Kind: entry.Dir}, {Path: ".."}, {Path: "."}, {Path: "/"}, {Path: ""},
		{Path: "gone", Kind: entry.Whiteout},
	} {
		from := crooked{entry.NewMem(), kid}
		for _, archive := range []bool{false, true} {
			_, _, err := planOne(Request{From: from, Sources: []string{"."}, Archive: archive, To: entry.NewMem(), Dest: "/d/"})
			if err == nil || !strings.Contains(err.Error(), "invalid") {
				t.Errorf("%q, archive %v: %v, want an error", kid.Path, archive, err)
			}
		}
	}
}

func TestAttack35WhatMeansDeletionInALayerIsRefused(t *testing.T) {
	trees := map[string]*entry.Mem{
		"device":    view(t, `c 0666 0:0 @1 s/c 0,0`),
		"file":      view(t, `f 0644 0:0 @1 s/.wh.bin "X"`),
		"opaque":    view(t, `f 0644 0:0 @1 s/.wh..wh..opq "X"`),
		"directory": view(t, `d 0755 0:0 @1 s/.wh.d`),
	}
	var unfit *Unfit
	for name, from := range trees {
		for _, archive := range []bool{false, true} {
			r := Request{From: from, Sources: []string{"s"}, Archive: archive, To: entry.NewMem(), Dest: "/d/"}
			if _, _, err := planOne(r); !errors.As(err, &unfit) {
				t.Errorf("%s, archive %v: Plan: %v, want *Unfit", name, archive, err)
			}
			if _, _, err := Content(r, nil); !errors.As(err, &unfit) {
				t.Errorf("%s, archive %v: Content: %v, want *Unfit", name, archive, err)
			}
		}
	}
	from := view(t, `f 0644 0:0 @1 a "A"`, `c 0666 0:0 @1 c 0,0`)
	for _, r := range []Request{{Sources: []string{"a"}, Dest: "/.wh.etc"}, {Sources: []string{"a"}, Dest: "/.wh.d/"}, {Sources: []string{"c"}, Dest: "/x"}} {
		r.From, r.To = from, entry.NewMem()
		if _, _, err := planOne(r); !errors.As(err, &unfit) {
			t.Errorf("%s to %s: %v, want *Unfit", r.Sources[0], r.Dest, err)
		}
	}
	if _, err := Workdir(entry.NewMem(), "/x/.wh.y", 0, 0, testNow); !errors.As(err, &unfit) {
		t.Errorf("WORKDIR: %v, want *Unfit", err)
	}
}

func TestAttack36OverlaysNotesAreNotCopied(t *testing.T) {
	sample := func(x map[string]string) *entry.Mem {
		m := entry.NewMem()
		m.Add(entry.Entry{Path: "s/d", Kind: entry.Dir, Mode: 0o755, Xattrs: x}, "")
		m.Add(entry.Entry{Path: "s/f", Mode: 0o644, Xattrs: x}, "F")
		return m
	}
	from := sample(map[string]string{"trusted.overlay.redirect": "/etc", "user.overlay.opaque": "y", "user.overlaying": "1"})
	r := Request{From: from, Sources: []string{"s"}, To: entry.NewMem(), Dest: "/"}
	for _, it := range plan(t, r) {
		if x := it.Entry.Xattrs; len(x) != 1 || x["user.overlaying"] != "1" {
			t.Errorf("%s: %v", it.Entry.Path, x)
		}
	}
	plain := r
	plain.From = sample(map[string]string{"user.overlaying": "1"})
	if contentOf(t, r) != contentOf(t, plain) {
		t.Error("what is not copied counts in the digest")
	}
}
