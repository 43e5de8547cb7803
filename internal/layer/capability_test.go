package layer

import (
	"archive/tar"
	"strings"
	"testing"
)

func TestACapabilityThatTheKernelWouldNotTakeIsDropped(t *testing.T) {
	zeros := strings.Repeat("\x00", 24)
	tests := map[string]struct {
		value string
		kept  bool
	}{
		"revision 1":                   {"\x00\x00\x00\x01" + zeros[:8], true},
		"revision 2":                   {"\x01\x00\x00\x02" + zeros[:16], true},
		"revision 3":                   {"\x01\x00\x00\x03" + zeros[:20], true},
		"nothing":                      {"", false},
		"a word":                       {"x", false},
		"no magic":                     {zeros[:20], false},
		"an unknown flag":              {"\x02\x00\x00\x02" + zeros[:16], false},
		"the length of another":        {"\x01\x00\x00\x02" + zeros[:20], false},
		"a revision that is not known": {"\x01\x00\x00\x04" + zeros[:20], false},
	}
	for name, c := range tests {
		h := tar.Header{PAXRecords: map[string]string{paxXattr + capability: c.value, paxXattr + "user.a": "1"}}
		got := paxXattrs(&h)
		if v, ok := got[capability]; ok != c.kept || ok && v != c.value || got["user.a"] != "1" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
