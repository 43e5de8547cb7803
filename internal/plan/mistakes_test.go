package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

func TestMistakesSayWhereWhatAndTheWayOut(t *testing.T) {
	for name, c := range map[string]struct {
		src  string
		want []string // line: part of the message | part of the hint
	}{
		"a later stage":          {"FROM a\nCOPY --from=x / /\nFROM b AS x\nFROM a\nCOPY --from=0 / /", []string{`2: cannot copy from stage "x", it needs to be defined before | move stage "x" (line 3) above stage "stage-0" (line 1)`}},
		"itself":                 {"FROM a AS x\nCOPY --from=x / /", []string{"2: circular dependency detected on stage: x: it copies from itself | leave --from out"}},
		"itself by number":       {"FROM a\nCOPY --from=0 / /", []string{"2: circular dependency detected on stage: stage-0"}},
		"itself by its twin":     {"FROM a AS x\nFROM b AS x\nCOPY --from=x / /", []string{`3: circular dependency | two stages are called "x"`}},
		"a circle":               {"FROM a AS x\nCOPY --from=y / /\nFROM a AS y\nCOPY --from=x / /", []string{"2: circular dependency detected on stage: x: it copies from y, which needs x | above line 1"}},
		"a circle through FROM":  {"FROM a AS x\nCOPY --from=y / /\nFROM x AS y\nFROM scratch", []string{"2: circular dependency detected on stage: x"}},
		"a circle of three":      {"FROM a AS x\nCOPY --from=z / /\nFROM x AS y\nFROM a AS z\nCOPY --from=y / /\nFROM scratch", []string{"2: circular dependency detected on stage: x"}},
		"no such number":         {"FROM a\nFROM b\nCOPY --from=2 / /\nCOPY --from=-1 / /", []string{"3: invalid stage index 2 | stages 0 to 1", "4: invalid stage index -1"}},
		"a variable in --from":   {"ARG X\nFROM a\nCOPY --from=$X / /", []string{"3: variable expansion is not supported for --from | FROM $X AS name"}},
		"a bad image in --from":  {"FROM a AS build\nFROM b\nCOPY --from=Build! / /", []string{`3: failed to parse stage name "Build!": invalid reference format | stage "build"`}},
		"a bad image":            {"FROM My/Image\nFROM a", []string{`1: failed to parse stage name "My/Image": invalid reference format: repository name must be lowercase`}},
		"a blank base":           {"ARG X\nFROM $X\nFROM a", []string{"2: base name ($X) should not be blank | --build-arg"}},
		"a required argument":    {"ARG X\nFROM ${X:?give-X}\nFROM a", []string{"2: X: give-X"}},
		"a blank in an ARG":      {"FROM a\nARG A=${B:?need B}", []string{"2: syntax error: missing '}' | double quotes"}},
		"a bad substitution":     {"FROM a\nENV A=${} B=${a:#x}\nLABEL a=${x/a}", []string{"2: syntax error: bad substitution | the forms are", "2: unsupported modifier", "3: syntax error"}},
		"an empty platform":      {"ARG P\nFROM --platform=$P a", []string{"2: empty platform value from expression $P | os/arch"}},
		"a bad platform":         {"FROM --platform=linux/a/b/c a\nFROM --platform=foo a\nFROM --platform=windows/amd64 a", []string{"1: failed to parse platform", "2: failed to parse platform", "3: platform windows/amd64: this version builds Linux images only"}},
		"a remark to ports":      {"FROM a\nEXPOSE 80 # web", []string{"2: invalid containerPort: # | a line of its own"}},
		"bad ports":              {"FROM a\nEXPOSE 80/foo\nEXPOSE 70000\nEXPOSE x\nEXPOSE 9-8\nEXPOSE 1.2:3:4\nEXPOSE 1-3:4-5", []string{"2: invalid port: \"80/foo\": invalid proto: foo | /udp", "3: invalid containerPort: 70000", "4: invalid containerPort: x", "5: invalid containerPort: 9-8", "6: invalid IP address: 1.2", "7: invalid ranges specified for container and host Ports"}},
		"a bad signal":           {"FROM a\nSTOPSIGNAL SIGFOO\nSTOPSIGNAL 0\nSTOPSIGNAL sigterm\nSTOPSIGNAL 300\nSTOPSIGNAL RTMIN+3\nSTOPSIGNAL INT HUP", []string{"2: invalid signal: SIGFOO | SIGTERM", "3: invalid signal: 0", "7: invalid signal: INT HUP"}},
		"a bad mode":             {"FROM a\nCOPY --chmod=999 a b\nCOPY --chmod=10000 a b\nCOPY --chmod=u+q a b\nCOPY --chmod=g=u,o-w+X a b\nCOPY --chmod=$A a b", []string{"2: invalid chmod parameter: '999'. it should be octal string and between 0 and 07777 | --chmod=755", "3: invalid chmod", "4: invalid chmod"}},
		"names on nothing":       {"FROM scratch AS s\nCOPY --chown=x:1 a /\nFROM scratch\nCOPY --chown=0:5 a /\nCOPY --chown=x a /\nCOPY --from=s a /\nFROM scratch\nUSER x\nWORKDIR /w\nCOPY --from=1 a /", []string{"2: --chown=x:1: there is no /etc/passwd yet | numbers", "9: USER x: there is no /etc/passwd yet | numbers"}},
		"an empty volume":        {"FROM a\nVOLUME $X", []string{"2: VOLUME specified can not be an empty string"}},
		"copied addresses":       {"FROM a\nCOPY http://x /\nCOPY git://x/y /\nCOPY --from=x http://y /", []string{"2: source can't be a URL for COPY | write ADD", "3: source can't be a git ref for COPY | write ADD", "4: source can't be a URL for COPY"}},
		"bad checksums":          {"FROM a\nADD --checksum=sha256:1 a /\nADD --checksum=sha256:1 http://x/y http://x/z /\nADD --checksum=x http://x/y /\nADD --checksum=md5:1 http://x/y /\nADD --checksum=sha256:1 http://x/y /\nADD --checksum=foobar git://x/y /\nADD --checksum=ab git://x/y?commit=cd /", []string{"2: checksum requires HTTP(S) or Git sources | leave", "3: checksum can't be specified for multiple sources | an ADD for each", "4: --checksum=x: invalid checksum digest format | sha256sum", "5: --checksum=md5:1: unsupported digest algorithm | sha256sum", "6: --checksum=sha256:1: invalid checksum digest length", "7: invalid checksum foobar for Git URL, expected hex commit hash", `8: checksum mismatch "ab" != "cd"`}},
		"bad repositories":       {"FROM a\nADD https://u:p@x/y.git?foo=1 /\nADD git://x/y?tag=a&branch=b /\nADD git://x/y#-b /\nADD --keep-git-dir=false git://x/y?keep-git-dir=true /\nADD ssh://-x/y /\nADD git://x/%zz /", []string{`2: unexpected query "foo" | ?tag=`, "3: branch conflicts with tag", `4: invalid git ref "-b"`, "5: inconsistent keep-git-dir configuration", "6: \"-x\" begins with - and would be taken for an option", "7: invalid URL escape"}},
		"a quoted path":          {"FROM a\nCOPY \"a b\" /", []string{"2: unexpected end of statement while looking for matching double-quote | close the quote"}},
		"a trigger in this file": {"FROM a AS x\nONBUILD COPI a b\nFROM x", []string{"3: ONBUILD COPI a b: unknown instruction: COPI | did you mean COPY?"}},
		"bad checks":             {"# escape=`\n# check=foo\nFROM a", []string{`2: failed to parse check options: invalid check option "foo" | skip=all`}},
		"lint as errors":         {"# check=error=true;skip=MaintainerDeprecated\nFROM a\nMAINTAINER x\nCMD x\nRUN ['a']", []string{" lint violation found for rules: JSONArgsRecommended"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := mistakes(t, c.src, nil)
			if len(got) != len(c.want) {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			for i, w := range c.want {
				msg, hint, _ := strings.Cut("Dockerfile:"+w, " | ")
				if !strings.HasPrefix(got[i], msg) || !strings.Contains(got[i][strings.Index(got[i], " | "):], hint) {
					t.Errorf("got  %s\nwant %s | …%s", got[i], msg, hint)
				}
			}
		})
	}
}

func TestATargetThatDoesNotExist(t *testing.T) {
	for target, want := range map[string]string{
		"biuld": `Dockerfile:1: target stage "biuld" could not be found | did you mean "build"?`,
		"0":     `Dockerfile: target stage "0" could not be found | the stages are: build, test`,
	} {
		got := mistakes(t, "FROM a AS build\nFROM b AS test\n", func(r *Request) { r.Target = target })
		if !slices.Equal(got, []string{want}) {
			t.Errorf("target %q: got %q, want %q", target, got, want)
		}
	}
	got := mistakes(t, "FROM a\n", func(r *Request) { r.Target = "X" })
	if len(got) != 1 || !strings.Contains(got[0], "FROM image AS x") {
		t.Errorf("got %q", got)
	}
}

func TestAllMistakesComeAtOnceAndUnreachableStagesDoNotCount(t *testing.T) {
	const src = "FROM a AS x\nCOPY --from=y / /\nEXPOSE x\nENV A=${\nFROM b AS unused\nEXPOSE y\nFROM a AS y\nSTOPSIGNAL no\nFROM x\nCOPY --from=y / /\n"
	got := mistakes(t, src, nil)
	if len(got) != 4 {
		t.Fatalf("got\n%s\nwant lines 2, 3, 4 and 8", strings.Join(got, "\n"))
	}
	for i, line := range []string{":2:", ":3:", ":4:", ":8:"} {
		if !strings.Contains(got[i], line) {
			t.Errorf("mistake %d is %s, want line %s", i, got[i], line)
		}
	}
}

func TestMistakesKnownBeforeImagesAreFoundComeWithThem(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM golang AS build\nFROM alpin\nCOPY --from=9 / /\nCOPY --from=biuld / /\nFROM a\nCOPY --from=1 / /\nCOPY --from=3 / /"))
	if err != nil {
		t.Fatal(err)
	}
	r := Request{File: f, BuildPlatform: amd64}
	_, err = New(r)
	var m *Missing
	if !errors.As(err, &m) {
		t.Fatalf("got %v", err)
	}
	if len(m.Known) != 2 {
		t.Errorf("known are %v, want lines 3 and 7", m.Known)
	}
	no := errors.New("not found")
	got := m.Failed(map[Ref]error{{"alpin", amd64}: no, {"biuld", amd64}: no})
	want := []string{"alpine", "", `stage "build"`, ""}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i, w := range want {
		if !strings.Contains(got[i].Hint, w) {
			t.Errorf("%v: hint %q, want %q in it", got[i], got[i].Hint, w)
		}
	}
	if got[0].Text != "FROM alpin" || got[0].Msg != `base image "alpin": not found` {
		t.Errorf("got %+v", got[0])
	}
}

func TestFromAStageBelowSaysSoWhenThereIsNoSuchImage(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM below\nFROM a AS below\nFROM below\nCOPY --from=0 / /"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(Request{File: f, BuildPlatform: amd64})
	var m *Missing
	if !errors.As(err, &m) || len(m.Uses) != 2 || !strings.Contains(m.Uses[0].Hint, "defined at line 2") {
		t.Errorf("got %+v", m)
	}
}

func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct {
		src, rule string
		lines     []int
	}{
		"undefined variable":           {"FROM a\nENV X=$Y Z=${PATHH}\nARG Y\nENV X=$Y\nRUN $Z\nCOPY $W /", "UndefinedVar", []int{2, 2, 6}},
		"undefined variable in FROM":   {"ARG A\nFROM a$A$B$TARGETARCH", "UndefinedArgInFrom", []int{2}},
		"relative workdir":             {"FROM a AS x\nWORKDIR b\nWORKDIR c\nFROM a\nWORKDIR /b\nWORKDIR c\nCOPY --from=x / /", "WorkdirRelativePath", []int{2}},
		"several commands":             {"FROM a\nCMD [\"a\"]\nENTRYPOINT [\"a\"]\nCMD [\"b\"]\nHEALTHCHECK NONE\nHEALTHCHECK NONE", "MultipleInstructionsDisallowed", []int{2, 5}},
		"shell form":                   {"FROM a\nCMD a\nENTRYPOINT b\nSHELL [\"x\"]\nCMD c", "JSONArgsRecommended", []int{2, 3}},
		"legacy form":                  {"FROM a\nENV a b\nLABEL a b\nENV a=b", "LegacyKeyValueFormat", []int{2, 3}},
		"secrets":                      {"FROM a\nARG API_KEY PUBLIC_KEY\nENV db_password=1 MONKEY=1 KEY_FILE=x", "SecretsUsedInArgOrEnv", []int{2, 3}},
		"secrets, silenced":            {"FROM a\n# check=skip=SecretsUsedInArgOrEnv\nARG API_KEY\nENV TOKEN=1", "SecretsUsedInArgOrEnv", []int{4}},
		"protocol in upper case":       {"FROM a\nEXPOSE 1/TCP\nEXPOSE 1:2", "ExposeProtoCasing", []int{2}},
		"host port":                    {"FROM a\nEXPOSE 1/TCP\nEXPOSE 1:2", "ExposeInvalidFormat", []int{3}},
		"target platform":              {"FROM --platform=$TARGETPLATFORM a", "RedundantTargetPlatform", []int{1}},
		"fixed platform":               {"FROM --platform=linux/amd64 a\nFROM --platform=linux/arm64 a AS arm64", "FromPlatformFlagConstDisallowed", []int{1}},
		"no image without arguments":   {"ARG V\nFROM a:$V", "InvalidDefaultArgInFrom", []int{2}},
		"other platform than expected": {"FROM --platform=linux/arm64 a AS arm64", "InvalidBaseImagePlatform", []int{1}},
		"unused build argument":        {"ARG GIVEN V\nFROM a", "BuildArgNotUsed", []int{0}},
		"number":                       {"FROM a\nFROM b\nCOPY --from=0 / /", "StageByNumber", []int{3}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plan(t, c.src, func(r *Request) { r.Args = map[string]string{"GIVN": "1", "V": "1", "http_proxy": "x"} })
			if err != nil {
				t.Fatal(err)
			}
			var lines []int
			for _, w := range warnings(p, c.rule) {
				lines = append(lines, w.Line)
				if w.Msg == "" || w.Line > 0 && w.Text == "" {
					t.Errorf("warning without text: %+v", w)
				}
			}
			if !slices.Equal(lines, c.lines) {
				t.Errorf("warned at %v, want %v; all warnings %v", lines, c.lines, p.Warnings)
			}
		})
	}
}

func TestOneBuildArgumentReplacesTheChecksOfTheFile(t *testing.T) {
	p, err := plan(t, "# check=skip=all\nFROM a\nCMD x\n", func(r *Request) { r.Args = map[string]string{"BUILDKIT_DOCKERFILE_CHECK": "skip=Other"} })
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings(p, "JSONArgsRecommended")) != 1 {
		t.Errorf("warnings %v", p.Warnings)
	}
	got := mistakes(t, "FROM a\n", func(r *Request) { r.Args = map[string]string{"BUILDKIT_DOCKERFILE_CHECK": "x"} })
	if len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func TestAShellFromTheBaseSilencesTheShellFormRule(t *testing.T) {
	images := map[string]*Base{"b": image(config.Config{Shell: []string{"/bin/bash", "-c"}})}
	p, err := planWith(t, "FROM b\nCMD x\n", images, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Target.Config.Config.Cmd; len(p.Warnings) != 0 || !slices.Equal(got, []string{"/bin/bash", "-c", "x"}) {
		t.Errorf("cmd %q, warnings %v", got, p.Warnings)
	}
}
