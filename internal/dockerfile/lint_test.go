package dockerfile

import (
	"slices"
	"strings"
	"testing"
)

func TestWarningsOfTheText(t *testing.T) {
	for name, c := range map[string]struct {
		src   string
		rule  string
		lines []int
	}{
		"blank continuation":        {"FROM a\nRUN a \\\n\n b\nRUN c", "NoEmptyContinuation", []int{4}},
		"stage name in upper case":  {"FROM a AS Build", "StageNameCasing", []int{1}},
		"as in other case":          {"FROM a as b\nfrom a as c\nfrom a AS d", "FromAsCasing", []int{1, 3}},
		"case of the majority":      {"FROM a\nrun x\nRUN y\nCmd z", "ConsistentInstructionCasing", []int{2, 4}},
		"case, lower majority":      {"from a\nrun x\nRUN y", "ConsistentInstructionCasing", []int{3}},
		"case, a tie":               {"from a\nRUN y", "ConsistentInstructionCasing", []int{1}},
		"duplicate":                 {"FROM a AS x\nFROM b AS X", "DuplicateStageName", []int{2}},
		"reserved":                  {"FROM a AS scratch\nFROM b AS context", "ReservedStageName", []int{1, 2}},
		"maintainer":                {"FROM a\nMAINTAINER x", "MaintainerDeprecated", []int{2}},
		"silenced by the file":      {"# check=skip=MaintainerDeprecated,Other\nFROM a\nMAINTAINER x", "MaintainerDeprecated", nil},
		"all silenced":              {"# check=skip=all\nFROM a\nMAINTAINER x", "MaintainerDeprecated", nil},
		"silenced by a comment":     {"FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER x\nMAINTAINER y", "MaintainerDeprecated", []int{4}},
		"experimental is off":       {"# x is y\nFROM a AS b", "InvalidDefinitionDescription", nil},
		"experimental asked for":    {"# check=experimental=all\n\n# x is y\nFROM a AS b\n# b is c\nARG b", "InvalidDefinitionDescription", []int{4}},
		"no JSON":                   {"FROM a\nCMD ['a']\nRUN [\"a\", 'b']\nENTRYPOINT [a, b]\nHEALTHCHECK CMD [“x”]\nCMD [\"a\"", "InvalidJSONForm", []int{2, 3, 4, 5, 6}},
		"a test of the shell":       {"FROM a\nRUN [ -f x ] && y\nRUN [ \"$A\" = \"b\" ]\nRUN [[ a == b ]]\nCOPY [a-z]* /\nRUN [\"a\"]", "InvalidJSONForm", nil},
		"no JSON in a list":         {"FROM a\nCOPY ['a', 'b'] /x\nVOLUME ['/a']\nADD [a, b]", "InvalidJSONForm", []int{2, 3, 4}},
		"flags that nobody reads":   {"FROM a\nARG --x y\nSTOPSIGNAL --y 9\nHEALTHCHECK --interval=1s NONE", "FlagIgnored", []int{2, 3, 4}},
		"no command":                {"FROM a\nRUN\nCMD\nENTRYPOINT\nCMD []", "EmptyCommand", []int{2, 3, 4}},
		"a trigger that cannot run": {"FROM a\nONBUILD CPY a b\nONBUILD COPY a b", "TriggerFails", []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustParse(t, c.src)
			var lines []int
			for _, w := range f.Warnings {
				if w.Rule == c.rule {
					lines = append(lines, w.Line)
				}
			}
			if !slices.Equal(lines, c.lines) {
				t.Errorf("warned at %v, want %v; all: %v", lines, c.lines, f.Warnings)
			}
		})
	}
}

func TestWhatLooksLikeJSONIsGivenAsJSON(t *testing.T) {
	for src, want := range map[string]string{
		"CMD ['npm', 'start']":          `write CMD ["npm", "start"]`,
		"CMD [\"a\", \"b\"":             `write CMD ["a", "b"]`,
		"ENTRYPOINT [node, server.js,]": `write ENTRYPOINT ["node", "server.js"]`,
		"COPY ['a b', '/c']":            `write COPY ["a b", "/c"]`,
		`CMD ["a"] # b`:                 `write CMD ["a"]`,
		`CMD ["a" "b c"]`:               `write CMD ["a", "b c"]`,
		`CMD ["a"]b`:                    `JSON strings have double quotes`,
		"CMD [“a”]":                     `write CMD ["a"]`,
		"CMD [,]":                       "double quotes",
	} {
		f := mustParse(t, "FROM a\n"+src)
		if len(f.Warnings) == 0 || !strings.Contains(f.Warnings[0].Hint, want) {
			t.Errorf("%s: warnings %v, want the hint %s", src, f.Warnings, want)
		}
	}
}

func TestReferenceRulesHaveTheReferencesTextAndAddress(t *testing.T) {
	f := mustParse(t, "FROM a AS Build\n")
	w := f.Warnings[0]
	if w.Msg != "Stage name 'Build' should be lowercase" || w.URL != "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/" || w.Text != "FROM a AS Build" {
		t.Errorf("got %+v", w)
	}
	if got, want := w.String(), "Dockerfile:1: StageNameCasing: Stage name 'Build' should be lowercase"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

func TestSuggestions(t *testing.T) {
	names := []string{"build", "builder", "test", "a"}
	for val, want := range map[string]string{
		"biuld": "build", "BUILD": "build", "buildre": "builder", "tset": "test", "build": "", "b": "", "deploy": "", "": "",
		strings.Repeat("x", 1000): "",
	} {
		if got := Suggest(val, names); got != want {
			t.Errorf("Suggest(%.20q) = %q, want %q", val, got, want)
		}
	}
}

func TestImageNames(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for _, good := range []string{
		"a", "a:1", "a/b", "docker.io/library/a:1.2-x_Y", "localhost/a", "localhost:5000/a/b", "HOST.org/a", "[::1]:5000/a",
		"a@sha256:" + hex, "a:1@sha256:" + hex, "a__b", "a--b", "a.b-c_d", "sha256:" + hex, hex, "HOST/a",
	} {
		if err := CheckImageName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "A", "a/B", "a:", "a:-x", "a:" + strings.Repeat("x", 129), "-a", "a-", "a..b", "a//b", "/a", "a/", "a b", "a@sha256:1", "a@x",
		"ho_st.org:1/a/b c", "a$b", "é", strings.Repeat("a/", 200) + "a",
	} {
		if err := CheckImageName(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

func TestOnlyTheDockerfilesOwnFrontendIsTaken(t *testing.T) {
	for src, ok := range map[string]bool{
		"# syntax=docker/dockerfile:1": true, "# syntax=docker/dockerfile": true, "#syntax = docker.io/docker/dockerfile:1.7-labs words": true,
		"# syntax=docker/dockerfile-upstream:master@sha256:00": true, "# syntax=mirror.example:5000/docker/dockerfile:1": true, "# syntax=dockerfile.v0": true,
		"# hello\n# syntax=other/frontend": true, "#!/x\n# syntax=docker/dockerfile:1": true, "FROM a\n# syntax=x": true, "": true,
		"# syntax=other/frontend": false, "# syntax=docker/buildx:1": false, "# syntax=dockerfile": false, "#!/x\n# syntax=x": false, "# escape=`\n# SYNTAX=x": false,
		"// syntax=x": false, `{"syntax":"x"}`: false, "\uFEFF# syntax=x": false, "# syntax=docker/dockerfile:1/x": false, "# syntax=notdocker/dockerfile": false,
	} {
		got := CheckSyntax("Dockerfile", []byte(src), nil)
		if (got == nil) != ok {
			t.Errorf("%q: got %v", src, got)
		}
		if got != nil && (got.Line < 1 || got.Line > strings.Count(src, "\n")+1 || got.Hint == "" || got.Text == "") {
			t.Errorf("%q: got %+v", src, got)
		}
		if got := CheckSyntax("Dockerfile", []byte(src), map[string]string{SyntaxArg: "docker/dockerfile:1 x"}); got != nil {
			t.Errorf("%q, with the argument: got %v", src, got)
		}
	}
	if got := CheckSyntax("Dockerfile", nil, map[string]string{SyntaxArg: ""}); got == nil || got.Hint == "" {
		t.Errorf("an empty argument: got %v", got)
	}
}
