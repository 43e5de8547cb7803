package copying

import (
	"errors"
	"slices"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// unpack unpacks an archive that only implies some of its directories.
func unpack(t *testing.T, from, to entry.FS, dest string, implied ...string) []Item {
	t.Helper()
	return plan(t, Request{From: from, Archive: true, FromContext: true, To: to, Dest: dest, Chmod: "0777", Implied: only(implied...)})
}

func only(paths ...string) func(string) bool {
	return func(p string) bool { return slices.Contains(paths, p) }
}

func TestAttack12NothingOfAnArchiveLandsOutsideItsDestination(t *testing.T) {
	from := view(t, `f 0644 1:1 @1 l/a "A"`, `f 0644 1:1 @1 up/b "B"`, `f 0644 1:1 @1 far/c "C"`)
	to := view(t, `d 0755 0:0 @1 etc`, `d 0755 0:0 @1 in`, `d 0755 0:0 @1 in/dest`,
		`l 0777 0:0 @1 in/dest/l -> /etc`, `l 0777 0:0 @1 in/dest/up -> ../../etc`, `l 0777 0:0 @1 in/dest/far -> ../../../../../../../..`)
	items := unpack(t, from, to, "/in/dest", "l", "up", "far")
	checkShow(t, items, from,
		`d 0755 0:0 @now in`, `d 0755 0:0 @now in/dest`, `f 0644 1:1 @1 in/dest/c "C"`,
		`d 0755 0:0 @now in/dest/etc`, `f 0644 1:1 @1 in/dest/etc/a "A"`, `f 0644 1:1 @1 in/dest/etc/b "B"`)
}

func TestAttack12AnArchivesOwnLinkIsNotWrittenThrough(t *testing.T) {
	// What an archive puts behind a link of its own has to come from another
	// source of the same instruction, which meets the link as a link.
	first := view(t, `l 0777 0:0 @1 x -> /etc`)
	second := view(t, `f 0644 0:0 @1 x/passwd "evil"`)
	to := view(t, `d 0755 0:0 @1 etc`, `d 0755 0:0 @1 d`)
	items, _, err := planAll([]Request{
		{From: first, Archive: true, To: to, Dest: "/d/"},
		{From: second, Archive: true, Dest: "/d/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if it.Entry.Path == "etc/passwd" {
			t.Errorf("written outside its destination")
		}
	}
}

func TestAttack12ALinkToItselfIsAnError(t *testing.T) {
	from := view(t, `f 0644 0:0 @1 a/x "X"`)
	to := view(t, `l 0777 0:0 @1 a -> b`, `l 0777 0:0 @1 b -> a`)
	_, _, err := planOne(Request{From: from, Archive: true, To: to, Dest: "/", Implied: only("a")})
	if !errors.Is(err, entry.ErrLoop) {
		t.Errorf("error %v, want %v", err, entry.ErrLoop)
	}
}

func TestAttack13AnAbsoluteLinkOfTheImageIsFollowedInside(t *testing.T) {
	from := view(t, `d 0755 0:0 @1 var`, `d 0710 7:7 @2 var/run`, `f 0644 0:0 @3 var/run/pid "1"`)
	t.Run("its target exists", func(t *testing.T) {
		to := view(t, `d 0755 0:0 @1 run`, `d 0755 0:0 @1 var`, `l 0777 0:0 @1 var/run -> /run`)
		checkShow(t, unpack(t, from, to, "/", "var/run"), from, `d 0755 0:0 @now run`, `f 0644 0:0 @3 run/pid "1"`)
	})
	t.Run("its target does not exist", func(t *testing.T) {
		to := view(t, `d 0755 0:0 @1 var`, `l 0777 0:0 @1 var/run -> /run`)
		checkShow(t, unpack(t, from, to, "/", "var/run"), from, `d 0710 0:0 @now run`, `f 0644 0:0 @3 run/pid "1"`)
	})
	t.Run("the archive has an entry for it", func(t *testing.T) {
		to := view(t, `d 0755 0:0 @1 run`, `d 0755 0:0 @1 var`, `l 0777 0:0 @1 var/run -> /run`)
		checkShow(t, unpack(t, from, to, "/"), from, `d 0755 0:0 @1 var`, `d 0710 7:7 @2 var/run`, `f 0644 0:0 @3 var/run/pid "1"`)
	})
}

func TestAnImpliedDirectoryOfAnArchiveLeavesAnExistingOneAlone(t *testing.T) {
	from := view(t, `d 0755 0:0 @0 opt`, `f 0644 0:0 @3 opt/a "A"`)
	to := view(t, `d 0700 5:5 @9 opt`)
	for _, implied := range []bool{false, true} {
		items := plan(t, Request{From: from, Archive: true, To: to, Dest: "/", Implied: func(p string) bool { return implied && p == "opt" }})
		want := `d 0755 0:0 @0 opt`
		if implied {
			want = `d 0700 5:5 @now opt`
		}
		checkShow(t, items, from, want, `f 0644 0:0 @3 opt/a "A"`)
	}
}

func TestAnArchiveKeepsOwnersUnlessChownSaysOtherwise(t *testing.T) {
	from := view(t, `d 0750 1:2 @1 s`, `f 0640 3:4 @1 s/a "A"`, `l 0777 5:6 @1 s/l -> a`)
	items := plan(t, Request{From: from, Archive: true, To: view(t, `d 0700 9:9 @1 s`), Dest: "/", Chown: "7:8", Chmod: "0777"})
	checkShow(t, items, from, `d 0750 7:8 @1 s`, `f 0640 7:8 @1 s/a "A"`, `l 0777 7:8 @1 s/l -> a`)
}

// Names that lead to one place through links of the image are written in the
// archive's order, each over what was there.
func TestAliasedPlacesOfAnArchive(t *testing.T) {
	t.Run("a directory again after a file hides what the image has", func(t *testing.T) {
		from := view(t, `f 0644 0:0 @1 lib "L"`, `d 0755 0:0 @2 z`, `f 0644 0:0 @1 z/x "X"`)
		to := view(t, `d 0755 0:0 @1 lib`, `f 0644 0:0 @1 lib/old "O"`, `l 0777 0:0 @1 z -> lib`)
		items := unpack(t, from, to, "/", "z")
		checkShow(t, items, from, `d 0755 0:0 @now lib`, `f 0644 0:0 @1 lib/x "X"`)
		if !items[0].Entry.Opaque {
			t.Error("lib is not opaque: the image's lib/old would show again")
		}
	})
	t.Run("a file drops what was written in the directory", func(t *testing.T) {
		from := view(t, `d 0755 0:0 @2 a`, `f 0644 0:0 @1 a/x "X"`, `f 0644 0:0 @1 lib "L"`)
		to := view(t, `d 0755 0:0 @1 lib`, `l 0777 0:0 @1 a -> lib`)
		checkShow(t, unpack(t, from, to, "/", "a"), from, `f 0644 0:0 @1 lib "L"`)
	})
	t.Run("a directory that disappears while it is written is an error", func(t *testing.T) {
		from := view(t, `d 0755 0:0 @2 a`, `d 0755 0:0 @2 a/r`, `f 0644 0:0 @1 a/r/a "A"`, `f 0644 0:0 @1 a/z "Z"`)
		to := view(t, `d 0755 0:0 @1 a`, `l 0777 0:0 @1 a/r -> /`)
		_, _, err := planOne(Request{From: from, Archive: true, To: to, Dest: "/", Implied: only("a/r")})
		var conflict *Conflict
		if !errors.As(err, &conflict) || conflict.Path != "/a" {
			t.Errorf("error %v, want a conflict with /a", err)
		}
	})
	t.Run("a link to the destination itself leaves its metadata", func(t *testing.T) {
		from := view(t, `d 0700 5:5 @2 here`, `f 0644 0:0 @1 here/x "X"`)
		to := view(t, `d 0711 9:9 @1 d`, `l 0777 0:0 @1 d/here -> .`)
		checkShow(t, unpack(t, from, to, "/d", "here"), from, `d 0711 9:9 @now d`, `f 0644 0:0 @1 d/x "X"`)
	})
}
