package whittle

import (
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
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
