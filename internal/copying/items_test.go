package copying

import (
	"errors"
	"fmt"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// atOnce is Plan as if no folder were left for later.
func atOnce(rs []Request) ([]Item, error) {
	root, err := rs[0].To.Lstat(".")
	if err != nil {
		return nil, err
	}
	l := newLayout(rs[0].To, root, rs[0].Now)
	for i := range rs {
		if _, err := place(l, &rs[i], i); err != nil {
			return nil, err
		}
		if err := openAll(l.root); err != nil {
			return nil, err
		}
	}
	items, err := changed(l.items(), rs)
	if err != nil {
		return nil, err
	}
	return listOf(Listed(items))
}

func openAll(n *node) error {
	err := n.open()
	for _, k := range n.kids {
		err = errors.Join(err, openAll(k))
	}
	return err
}

func FuzzAFolderLeftForLaterIsAsIfItHadNotBeen(f *testing.F) {
	for i := range byte(90) {
		seed := make([]byte, 250)
		for j := range seed {
			seed[j] = byte(j*j)*(i+1) + byte(j)*29 + i
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := dice{b}
		rs := []Request{d.request(), d.request()}
		if d.throw(2) == 1 {
			rs[1].Dest, rs[1].From = rs[0].Dest, rs[0].From
		}
		got, _, err := planAll(rs)
		want, werr := atOnce(rs)
		if fmt.Sprint(err) != fmt.Sprint(werr) {
			t.Fatalf("error %v, at once %v", err, werr)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("later   %+v\nat once %+v", got, want)
		}
	})
}

func TestAFolderThatWasCopiedBeforeIsCopiedOver(t *testing.T) {
	from := view(t, `d 0700 0:0 @1 one`, `d 0711 0:0 @2 one/d`, `f 0600 0:0 @1 one/d/x "1"`, `d 0755 0:0 @1 one/d/e`, `f 0600 0:0 @1 one/d/e/y "1"`,
		`d 0700 0:0 @1 two`, `d 0722 0:0 @3 two/d`, `f 0600 0:0 @1 two/d/z "2"`)
	checkShow(t, plan(t, Request{From: from, Sources: []string{"one", "two"}, To: entry.NewMem(), Dest: "/"}), from,
		`d 0722 0:0 @3 d`, `d 0755 0:0 @1 d/e`, `f 0600 0:0 @1 d/e/y "1"`, `f 0600 0:0 @1 d/x "1"`, `f 0600 0:0 @1 d/z "2"`)
}
