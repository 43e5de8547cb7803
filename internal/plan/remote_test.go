package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

func TestRemoteSourcesKeepTheirPlace(t *testing.T) {
	p := mustPlan(t, "FROM a\nARG H=example.com\nADD https://$H/x a https://$H/y.git#v1:sub b c git@h:r.git <<e /d/\ne\n")
	c := p.Steps[len(p.Steps)-1].Copy
	var got []string
	for i := range c.Remotes {
		got = append(got, fmt.Sprint(c.Remotes[i].At, " ", c.Remotes[i].String()))
	}
	if want := []string{"0 https://example.com/x", "1 https://example.com/y.git#v1:sub", "3 git@h:r.git"}; !slices.Equal(got, want) {
		t.Errorf("remotes %q, want %q", got, want)
	}
	if want := []string{"/a", "/b", "/c"}; !slices.Equal(c.Sources, want) || !c.Unpack || c.UnpackRemote {
		t.Errorf("%+v", c)
	}
	if want := []string{"!ARG H=example.com", "ADD https://example.com/x a https://example.com/y.git#v1:sub b c git@h:r.git <<e /d/ # buildkit"}; !slices.Equal(history(p), want) {
		t.Errorf("history %q", history(p))
	}
}

func TestFlagsOfAdd(t *testing.T) {
	sum := "sha512:" + strings.Repeat("a", 128)
	for line, want := range map[string]string{
		"ADD a /":                "unpack=true remote=false",
		"ADD --unpack a /":       "unpack=true remote=true",
		"ADD --unpack=false a /": "unpack=false remote=false",
		"COPY a /":               "unpack=false remote=false",
		"ADD http://h/f /":       "unpack=true remote=false keep=false sum= commit=",
		"ADD --checksum=" + sum + " http://h/f /":           "unpack=true remote=false keep=false sum=" + sum + " commit=",
		"ADD --checksum= http://h/f /":                      "unpack=true remote=false keep=false sum= commit=",
		"ADD --keep-git-dir git://h/f /":                    "unpack=true remote=false keep=true sum= commit=",
		"ADD --keep-git-dir=false git://h/f /":              "unpack=true remote=false keep=false sum= commit=",
		"ADD git://h/f?keep-git-dir=1 /":                    "unpack=true remote=false keep=true sum= commit=",
		"ADD --checksum=ab12 git://h/f /":                   "unpack=true remote=false keep=false sum= commit=ab12",
		"ADD --checksum=ab12 git://h/f?commit=ab12 /":       "unpack=true remote=false keep=false sum= commit=ab12",
		"ARG S=ab\nADD --checksum=$S git://h/f?checksum= /": "",
	} {
		p, err := plan(t, "FROM a\n"+line, nil)
		if want == "" {
			if err == nil {
				t.Errorf("%s: no mistake", line)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		c := p.Steps[0].Copy
		got := fmt.Sprintf("unpack=%v remote=%v", c.Unpack, c.UnpackRemote)
		for _, r := range c.Remotes {
			commit := ""
			if r.Repo != nil {
				commit = r.Repo.Commit
			}
			got += fmt.Sprintf(" keep=%v sum=%s commit=%s", r.KeepGitDir, r.Checksum, commit)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

// Credentials reach neither what people see nor what is kept.
func TestAttack31CredentialsOfAddresses(t *testing.T) {
	const src = "FROM a\nARG U=https://me:sesame@h/f\nADD https://me:sesame@h/f $U https://sesame@h/r.git#v1 /d/\nRUN x\n"
	p := mustPlan(t, strings.Replace(src, "ARG U=https://me:sesame@h/f\n", "", 1))
	s := p.Steps[0]
	k := digest.NewKey("step")
	s.KeyFields(k)
	seen := []string{s.Line.Text, s.Line.Label, fmt.Sprint(history(p)), fmt.Sprint(k.Fields()), p.Stages[0].Line.Text}
	for i := range s.Copy.Remotes {
		seen = append(seen, s.Copy.Remotes[i].String())
	}
	for _, text := range seen {
		if strings.Contains(text, "sesame") {
			t.Errorf("%s", text)
		}
	}
	if r := s.Copy.Remotes[0]; r.URL != "https://me:sesame@h/f" {
		t.Errorf("the address itself is %q", r.URL)
	}
	for _, m := range mistakes(t, "FROM a\nADD https://me:sesame@h/r.git?foo=1 /\nCOPY https://me:sesame@h/f /\n", nil) {
		if strings.Contains(m, "sesame") {
			t.Error(m)
		}
	}
	// The label has variables expanded.
	p = mustPlan(t, src)
	if got := p.Steps[0].Line.Label; strings.Contains(got, "sesame") || !strings.Contains(got, "ADD https://xxxxx:xxxxx@h/f https://xxxxx:xxxxx@h/f https://xxxxx@h/r.git#v1 /d/") {
		t.Errorf("label %q", got)
	}
}
