package whittle

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

func TestACacheHasATagThatLeavesRoom(t *testing.T) {
	for ref, want := range map[string]string{
		"host:5000/cache": "", "cache": "", "host/cache:" + strings.Repeat("x", sharedcache.MaxTag): "",
		"host/cache:" + strings.Repeat("x", sharedcache.MaxTag+1): "more than",
		"host/cache@" + digest.Of(nil).String():                   "has a digest",
		"host/Cache":                                              "cache host/Cache",
	} {
		_, err := cacheName(ref)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
}

// A layer that is here is not what somebody says of one with its id, unless that is the
// same: a record that is trusted names no layer that was taken from who is not.
func TestALayerThatIsHereIsNotTakenForAnother(t *testing.T) {
	w, err := Open(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	id, good, evil := digest.Of([]byte("id")), digest.Of([]byte("good")), digest.Of([]byte("evil"))
	for _, form := range []string{"tar", layer.FormAway} {
		if err := os.RemoveAll(w.store.LayerDir(id)); err != nil {
			t.Fatal(err)
		}
		tmp, err := w.store.Temp("test")
		if err != nil {
			t.Fatal(err)
		}
		err = layer.WriteMeta(tmp.Path, layer.Meta{Form: form, DiffID: evil})
		if err == nil {
			err = w.store.CommitLayer(tmp, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.putAway(id, layer.Meta{DiffID: good}, nil); !errors.Is(err, errOther) {
			t.Errorf("%s: %v", form, err)
		}
		if err := w.putAway(id, layer.Meta{DiffID: evil}, nil); err != nil {
			t.Errorf("%s, the same: %v", form, err)
		}
	}
}
