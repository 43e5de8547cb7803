package whittle

import (
	"errors"
	"os/user"
	"strings"
	"testing"
)

func TestRootIsNeverRelativeUnlessAsked(t *testing.T) {
	const nobodyHasIt = 4294967290
	for name, tt := range map[string]struct {
		uid  int
		flag string
		env  string
		want string // "" is an error
	}{
		"the flag":                    {1000, "/f", "WHITTLE_ROOT=/w HOME=/h", "/f"},
		"the variable":                {1000, "", "WHITTLE_ROOT=/w HOME=/h XDG_DATA_HOME=/x", "/w"},
		"root's":                      {0, "", "HOME=/h XDG_DATA_HOME=/x", "/var/lib/whittle"},
		"where data is":               {1000, "", "HOME=/h XDG_DATA_HOME=/x", "/x/whittle"},
		"a relative one is ignored":   {1000, "", "HOME=/h XDG_DATA_HOME=x", "/h/.local/share/whittle"},
		"a relative home is an error": {1000, "", "HOME=h", ""},
		"no home at all is an error":  {nobodyHasIt, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := rootOf(tt.uid, tt.flag, environ(tt.env))
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
			var hint interface{ Hint() string }
			if err != nil && (!errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--root")) {
				t.Errorf("%v: no hint at --root", err)
			}
		})
	}
}

func TestRootWithoutHomeIsInTheHomeOfThePasswdFile(t *testing.T) {
	u, err := user.LookupId("1")
	if err != nil {
		t.Skipf("needs a user 1: %v", err)
	}
	if got, err := rootOf(1, "", environ("")); err != nil || got != u.HomeDir+"/.local/share/whittle" {
		t.Errorf("got %q, %v, want it in %s", got, err, u.HomeDir)
	}
}

// environ is an environment of K=V, divided by spaces.
func environ(s string) func(string) string {
	return func(key string) string {
		for kv := range strings.FieldsSeq(s) {
			if v, ok := strings.CutPrefix(kv, key+"="); ok {
				return v
			}
		}
		return ""
	}
}
