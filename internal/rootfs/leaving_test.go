package rootfs

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A mount waits for one that is let go of if that writes to what it shows, and for no other.
func TestAMountWaitsForWhoeverWritesToItsLayers(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *os.File {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	written, other := open("written"), open("other")
	// It has become a layer under another name.
	if err := os.Rename(filepath.Join(dir, "written"), filepath.Join(dir, "layer")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		o     overlay
		waits bool
	}{
		{"a lower", overlay{lowers: []*os.File{other, written}}, true},
		{"the upper", overlay{lowers: []*os.File{other}, upper: filepath.Join(dir, "layer")}, true},
		{"neither", overlay{lowers: []*os.File{other}, upper: filepath.Join(dir, "other")}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l leaving
			gone := l.begin(filepath.Join(dir, "layer"))
			done := make(chan struct{})
			go func() {
				defer close(done)
				l.await(&c.o)
			}()
			select {
			case <-done:
				if c.waits {
					t.Error("it did not wait")
				}
			case <-time.After(200 * time.Millisecond):
				if !c.waits {
					t.Error("it waits")
				}
			}
			gone()
			<-done
			l.await(&c.o)
		})
	}
}

func TestGoneWaitsForTheMountOfOneUpper(t *testing.T) {
	dir := t.TempDir()
	var uppers []*Upper
	for _, name := range []string{"a", "b", "became a layer"} {
		uppers = append(uppers, &Upper{Dir: filepath.Join(dir, name)})
		if err := os.Mkdir(uppers[len(uppers)-1].Dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := New(nil, nil, false)
	gone := r.leaving.begin(uppers[0].Dir)
	defer r.leaving.begin(uppers[2].Dir)()
	if err := os.Rename(uppers[2].Dir, filepath.Join(dir, "layer")); err != nil {
		t.Fatal(err)
	}
	r.Gone(uppers[1])
	r.Gone(uppers[2])
	done := make(chan struct{})
	go func() {
		r.Gone(uppers[0])
		close(done)
	}()
	select {
	case <-done:
		t.Error("it did not wait")
	case <-time.After(100 * time.Millisecond):
	}
	gone()
	<-done
}
