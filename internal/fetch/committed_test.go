package fetch

import (
	"strings"
	"testing"
	"time"
)

func TestTheTimeOfACommitIsItsCommitters(t *testing.T) {
	for text, want := range map[string]string{
		"tree 1\nauthor A <a@b> 100 +0100\ncommitter C D > <c> 1700000000 -0330\n\ncommitter E <e> 5 +0000\n": "2023-11-14T22:13:20Z",
		"tree 1\ncommitter  <> 0 +0000\n\n":                  "1970-01-01T00:00:00Z",
		"tree 1\n\ncommitter E <e> 5 +0000\n":                "says not when",
		"committer E <e> x +0000\n":                          "is no time",
		"committer E <e> 99999999999999999999 +0000\n":       "is no time",
		"gpgsig -----\n committer E <e> 5 +0000\n -----\n\n": "says not when",
		"": "says not when",
	} {
		got, err := committer([]byte(text))
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && got.Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
}
