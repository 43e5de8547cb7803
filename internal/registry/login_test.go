package registry

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAHelperTakesThePlaceOfWhatWasInClearText(t *testing.T) {
	dir := helperProgram(t, `cat >"$(dirname "$0")/kept"`+"\n")
	k := configFile(t, `{"credsStore": "test", "detachKeys": "ctrl-e", "auths": {"a.example": {"auth": "`+auth("old")+`"},
		"https://a.example/v1/": {"auth": "`+auth("older")+`"}, "b.example": {"auth": "`+auth("other")+`"}}}`)
	k.Files = k.Files[1:]
	where, err := k.Keep(t.Context(), "a.example", Credential{Username: "user", Password: "s"})
	if err != nil || where != "credential helper test" {
		t.Fatalf("%q, %v", where, err)
	}
	b, err := os.ReadFile(k.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	if text := string(b); strings.Contains(text, "a.example") || !strings.Contains(text, "b.example") || !strings.Contains(text, "ctrl-e") {
		t.Errorf("the file is %s", text)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "kept")); err != nil || !strings.Contains(string(b), `"Secret":"s"`) {
		t.Errorf("the helper has %s, %v", b, err)
	}
}

func TestForgetSaysWhoElseHasCredentials(t *testing.T) {
	own := configFile(t, `{"auths": {"a.example": {"auth": "`+auth("a")+`"}}}`).Files[1]
	other := configFile(t, `{"auths": {"a.example": {"auth": "`+auth("a")+`"}, "b.example": {"auth": "`+auth("b")+`"}}}`).Files[1]
	broken := configFile(t, `{`).Files[1]
	before, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	// What is filed under a repository is shown to that alone, and stays.
	team := configFile(t, `{"auths": {"d.example/team": {"auth": "`+auth("d")+`"}, "c.example": {}}}`).Files[1]
	k := Keychain{Files: []string{own, "/does/not/exist.json", other, broken, team}}
	for _, tt := range []struct {
		domain string
		had    bool
		left   []string
	}{{"a.example", true, []string{other}}, {"b.example", false, []string{other}}, {"c.example", false, nil}, {"d.example", false, []string{team}}} {
		had, left, err := k.Forget(t.Context(), tt.domain)
		if err != nil || had != tt.had || !slices.Equal(left, tt.left) {
			t.Errorf("%s: %t, %q, %v; want %t, %q", tt.domain, had, left, err, tt.had, tt.left)
		}
	}
	if after, err := os.ReadFile(other); err != nil || string(after) != string(before) {
		t.Errorf("the other file is %s now, %v", after, err)
	}
}

func TestErrorsOfALoginNameTheRegistryAlone(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"broken":   func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"busy":     func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		"no realm": func(w http.ResponseWriter) { denied(w, "Bearer") },
		"a realm that is not asked": func(w http.ResponseWriter) {
			denied(w, `Bearer realm="https://169.254.169.254/token"`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			f.inject(func(w http.ResponseWriter, _ *http.Request) bool { answer(w); return true })
			err := client().Check(t.Context(), f.host(), Credential{Username: "u", Password: "p"})
			if err == nil || strings.Contains(err.Error(), f.host()+"/login") || !strings.HasPrefix(err.Error(), f.host()+": ") {
				t.Errorf("got %v", err)
			}
			var e *Error
			if name == "a realm that is not asked" && (!errors.As(err, &e) || !strings.Contains(e.Way, "realm")) {
				t.Errorf("got %v without its way out", err)
			}
		})
	}
	if got := fmt.Sprint(Ref{Domain: "a.example"}); got != "a.example" {
		t.Errorf("a registry is called %q", got)
	}
}

func denied(w http.ResponseWriter, challenge string) {
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(http.StatusUnauthorized)
}
