package config

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

func parse(t testing.TB, text string) *Image {
	t.Helper()
	m, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func encode(t testing.TB, m *Image) string {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the reference builder wrote of these Dockerfiles: compact, keys sorted
// at the top and in the order of its structs below, HTML escaped.
var golden = map[string]string{
	"scratch with nothing": `{"architecture":"amd64","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"created":null,"history":null,"os":"linux","rootfs":{"type":"layers","diff_ids":null}}`,
	"everything": `{"architecture":"arm64","author":"me \u003cme@x\u003e","config":{"User":"1:2","ExposedPorts":{"53/udp":{},"80/tcp":{}},"Env":["A=\u0026","B="],"Entrypoint":["/e"],"Cmd":["a","b"],"Volumes":{"/v":{}},"WorkingDir":"/w","Labels":{"a":"1","b":"2"},"StopSignal":"SIGQUIT","ArgsEscaped":true,"Healthcheck":{"Test":["CMD-SHELL","x"],"Interval":5000000000,"Timeout":1000000,"StartPeriod":2,"StartInterval":3,"Retries":2},"OnBuild":["RUN x"],"Shell":["/bin/sh","-c"]},` +
		`"created":"2024-01-02T03:04:05.000000006Z","history":[{"created":"2024-01-02T03:04:05Z","created_by":"RUN x # buildkit","comment":"buildkit.dockerfile.v0"},{"created_by":"ENV A=1","author":"you","comment":"buildkit.dockerfile.v0","empty_layer":true}],` +
		`"os":"linux","os.features":["f"],"os.version":"10","rootfs":{"type":"layers","diff_ids":["sha256:0101010101010101010101010101010101010101010101010101010101010101"]},"variant":"v8"}`,
	"keys that nobody knows": `{"architecture":"amd64","config":{},"container":"abc","created":null,"docker_version":"1.2","history":null,"moby.buildkit.cache.v0":"e30=","os":"linux","rootfs":{"type":"layers","diff_ids":null},"zz":{"deep":[1,2.50,null,"x\u003cy"]}}`,
}

func TestADocumentComesBackAsItWas(t *testing.T) {
	for name, text := range golden {
		t.Run(name, func(t *testing.T) {
			if got := encode(t, parse(t, text)); got != text {
				t.Errorf("came back as\n%s\nwant\n%s", got, text)
			}
		})
	}
}

func TestADocumentIsWrittenAsTheReferenceDoes(t *testing.T) {
	at := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	m := Image{
		Architecture: "amd64", OS: "linux", Created: &at,
		Config: Config{
			Env: []string{"PATH=" + DefaultPath}, Cmd: []string{"a", "<b>"}, ArgsEscaped: true, WorkingDir: "/",
			Healthcheck: &Healthcheck{Test: []string{"NONE"}},
		},
		DiffIDs: []digest.Digest{digest.Of([]byte("x"))},
		History: []History{{Created: &at, CreatedBy: "COPY a /b # buildkit", Comment: Comment}},
	}
	want := `{"architecture":"amd64","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["a","\u003cb\u003e"],"WorkingDir":"/","ArgsEscaped":true,"Healthcheck":{"Test":["NONE"]}},"created":"2024-01-02T03:04:05Z",` +
		`"history":[{"created":"2024-01-02T03:04:05Z","created_by":"COPY a /b # buildkit","comment":"buildkit.dockerfile.v0"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["` + digest.Of([]byte("x")).String() + `"]}}`
	if got := encode(t, &m); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestAKnownKeyWinsOverAnExtraOne(t *testing.T) {
	m := Image{OS: "linux", Extra: map[string]json.RawMessage{"os": json.RawMessage(`"plan9"`), "variant": json.RawMessage(`"v1"`), "x": json.RawMessage("1")}}
	got := encode(t, &m)
	if strings.Contains(got, "plan9") || strings.Contains(got, "variant") || !strings.Contains(got, `"x":1`) {
		t.Errorf("got %s", got)
	}
	if len(m.Extra) != 3 {
		t.Error("writing changed the image")
	}
}

func TestHostileDocumentsAreErrors(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":             "",
		"null":                "null",
		"a list":              "[]",
		"a text":              `"x"`,
		"two documents":       `{"os":"linux"}{"os":"plan9"}`,
		"a bracket after it":  `{"os":"linux"}]`,
		"a brace after it":    `{"os":"linux"}}`,
		"text after it":       `{} x`,
		"half":                `{"os":"linux"`,
		"os is a number":      `{"os":1}`,
		"created is no time":  `{"created":"yesterday"}`,
		"env is a text":       `{"config":{"Env":"A=1"}}`,
		"a cmd of numbers":    `{"config":{"Cmd":[1]}}`,
		"a digest of no form": `{"rootfs":{"diff_ids":["md5:x"]}}`,
		"an upper-case one":   `{"rootfs":{"diff_ids":["sha256:` + strings.Repeat("A", 64) + `"]}}`,
		"history is a map":    `{"history":{}}`,
		"a huge number":       `{"config":{"Healthcheck":{"Interval":1e400}}}`,
		"nested too deep":     `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
	} {
		if m, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: parsed as %+v", name, m)
		} else if !strings.HasPrefix(err.Error(), "image config: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsMissingOrNullIsZero(t *testing.T) {
	for _, text := range []string{`{}`, `{"config":null,"rootfs":null,"history":null,"created":null,"os":null}`, " \n{\"config\":{\"Env\":null}}\n"} {
		m := parse(t, text)
		if m.OS != "" || m.Created != nil || len(m.Config.Env) != 0 || len(m.DiffIDs) != 0 || len(m.History) != 0 {
			t.Errorf("%s: %+v", text, m)
		}
	}
}

func TestAnErrorNamesTheKey(t *testing.T) {
	for range 20 {
		// Always the same of two mistakes, whatever the order of a map.
		_, err := Parse([]byte(`{"history":1,"os":2,"config":3}`))
		if err == nil || !strings.HasPrefix(err.Error(), "image config: os: ") {
			t.Fatalf("error %v", err)
		}
	}
}

func TestClonesShareNothing(t *testing.T) {
	m := parse(t, golden["everything"])
	before := encode(t, m)
	c := m.Clone()
	c.Config.Env[0], c.Config.Cmd[0], c.Config.Entrypoint[0] = "x", "x", "x"
	c.Config.OnBuild[0], c.Config.Shell[0], c.Config.Healthcheck.Test[0] = "x", "x", "x"
	c.Config.Labels["a"], c.Config.ExposedPorts["x"], c.Config.Volumes["x"] = "x", struct{}{}, struct{}{}
	c.Config.Healthcheck.Retries = 99
	c.DiffIDs[0], c.History[0].CreatedBy, c.OSFeatures[0] = digest.Digest{}, "x", "x"
	if got := encode(t, m); got != before {
		t.Errorf("changing a clone changed\n%s\nto\n%s", before, got)
	}
}

func TestEnvironmentIsChangedInPlace(t *testing.T) {
	c := Config{Env: []string{"A=1", "NOVALUE", "B=x=y"}}
	for name, want := range map[string]string{"A": "1", "B": "x=y"} {
		if v, ok := c.Getenv(name); !ok || v != want {
			t.Errorf("%s is %q, %v", name, v, ok)
		}
	}
	for _, name := range []string{"NOVALUE", "C", "a", ""} {
		if v, ok := c.Getenv(name); ok {
			t.Errorf("%s is %q", name, v)
		}
	}
	c.Setenv("A", "2")
	c.Setenv("C", "3")
	c.Setenv("NOVALUE", "")
	if got := strings.Join(c.Env, " "); got != "A=2 NOVALUE= B=x=y C=3" {
		t.Errorf("environment %q", got)
	}
}

// FuzzParse: what is accepted is written in one form only.
func FuzzParse(f *testing.F) {
	for _, text := range golden {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"OS":"x","os":"y","config":{"env":["A"],"ENV":["B"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		once := encode(t, m)
		if again := encode(t, parse(t, once)); again != once {
			t.Errorf("written as\n%s\nand then as\n%s", once, again)
		}
	})
}
