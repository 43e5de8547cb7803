package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
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

func TestEpochStages(t *testing.T) {
	source := func(src string, args map[string]string) (string, error) {
		f, err := dockerfile.Parse("Dockerfile", []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		r, err := EpochSource(Request{File: f, Args: args, BuildPlatform: amd64}, "When")
		if r == nil {
			return "", err
		}
		return r.String(), err
	}
	for src, want := range map[string]string{
		"FROM scratch AS when\nADD http://h/f /": "http://h/f",
		"ARG U=http://h\nARG B=scratch\nFROM $B AS when\nARG F=$U/f\nARG G=g\nADD --checksum=ab ${F}.git#$G:d /x": "http://h/f.git#given:d",
		"ARG SOURCE_DATE_EPOCH=when\nFROM scratch AS when\nADD http://h/f$SOURCE_DATE_EPOCH /":                    "http://h/f",
		"FROM scratch AS other\nADD http://h/f /":                                                                 "",
	} {
		if got, err := source(src, map[string]string{"G": "given"}); got != want || err != nil {
			t.Errorf("%q: %q %v, want %q", src, got, err, want)
		}
	}
	for src, want := range map[string]string{
		"FROM a AS when\nADD http://h/f /":                               "must use FROM scratch",
		"FROM scratch AS when\nADD http://h/f /\nADD http://h/f /":       "exactly one remote ADD",
		"FROM scratch AS when\nARG X":                                    "exactly one remote ADD",
		"FROM scratch AS when\nADD http://h/f http://h/g /":              "exactly one remote ADD source",
		"FROM scratch AS when\nADD a /":                                  "must be a single HTTP(S) or Git ADD",
		"FROM scratch AS when\nADD http://h/f /\nRUN x":                  "unsupported RUN instruction",
		"FROM scratch AS when\nCOPY a /":                                 "unsupported COPY instruction",
		"FROM scratch AS when\nADD --checksum=x http://h/f /":            "invalid checksum digest format",
		"FROM scratch AS when\nADD git://h/f?x=1 /":                      `unexpected query "x"`,
		"FROM scratch AS when\nARG X=${Y:?none}\nADD http://h/f /\n":     "none",
		"FROM scratch AS when\nADD http://${Y:?none}/f /\n":              "none",
		"FROM scratch AS when\nADD <<a /\n1\na\n":                        "exactly one remote ADD source",
		"FROM scratch AS when\nADD --checksum=${Y:?none} http://h/f /\n": "none",
	} {
		_, err := source(src, nil)
		if err == nil || !strings.Contains(err.Error(), "Dockerfile:1: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", src, err, want)
		}
	}
}
