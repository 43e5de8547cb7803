package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

func env(list map[string]string) func(string) string { return func(k string) string { return list[k] } }

func TestTheEngineIsWhereDockersClientFindsIt(t *testing.T) {
	dir := t.TempDir()
	meta := filepath.Join(dir, "contexts", "meta", digest.Of([]byte("far")).Hex())
	if err := os.MkdirAll(meta, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		filepath.Join(meta, "meta.json"):  `{"Name":"far","Endpoints":{"docker":{"Host":"tcp://far:2375"}}}`,
		filepath.Join(dir, "config.json"): `{"currentContext":"far"}`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		env  map[string]string
		want string
		err  string
	}{
		"nothing said":     {map[string]string{"HOME": t.TempDir()}, "unix:///var/run/docker.sock", ""},
		"DOCKER_HOST":      {map[string]string{"DOCKER_HOST": "unix:///x", "DOCKER_CONFIG": dir}, "unix:///x", ""},
		"the current one":  {map[string]string{"DOCKER_CONFIG": dir}, "tcp://far:2375", ""},
		"the default one":  {map[string]string{"DOCKER_CONFIG": dir, "DOCKER_CONTEXT": "default"}, "unix:///var/run/docker.sock", ""},
		"none of the name": {map[string]string{"DOCKER_CONFIG": dir, "DOCKER_CONTEXT": "near"}, "", "docker context near"},
		"by ssh":           {map[string]string{"DOCKER_HOST": "ssh://me@far"}, "", `"ssh" is not spoken here`},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Open(env(tt.env))
			if tt.err != "" {
				var own *Error
				if err == nil || !strings.Contains(err.Error(), tt.err) || !errors.As(err, &own) || own.Way == "" {
					t.Errorf("%v, want %q and a way out", err, tt.err)
				}
				return
			}
			if err != nil || e.Name != tt.want {
				t.Errorf("%+v, %v; want %s", e, err, tt.want)
			}
		})
	}
}

// fakeEngine answers as a Docker engine does.
func fakeEngine(t *testing.T, driver string, images map[string][]string, load func(io.Reader) string) *Engine {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
		switch {
		case r.URL.Path == "/info":
			answer(map[string]any{"DriverStatus": [][]string{{"driver-type", driver}}})
		case r.URL.Path == "/images/json":
			list := []map[string]string{{"Id": "gone"}}
			for id := range images {
				list = append(list, map[string]string{"Id": id})
			}
			answer(list)
		case r.URL.Path == "/images/load":
			fmt.Fprint(w, load(r.Body))
		default:
			layers, ok := images[strings.Split(r.URL.Path, "/")[2]]
			if !ok {
				http.Error(w, `{"message":"no such image"}`, http.StatusNotFound)
				return
			}
			answer(map[string]any{"RootFS": map[string]any{"Layers": layers}})
		}
	}))
	t.Cleanup(s.Close)
	e, err := Open(env(map[string]string{"DOCKER_HOST": "tcp://" + strings.TrimPrefix(s.URL, "http://")}))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestLayersThatTheEngineHasAreTheLowestOfSomeImage(t *testing.T) {
	a, b, c := digest.Of([]byte("a")), digest.Of([]byte("b")), digest.Of([]byte("c"))
	images := map[string][]string{"x": {a.String()}, "y": {a.String(), b.String(), a.String()}, "z": {c.String(), b.String()}}
	for _, tt := range []struct {
		driver string
		want   int
	}{{"overlay2", 2}, {"io.containerd.snapshotter.v1", 0}} {
		n, err := fakeEngine(t, tt.driver, images, nil).Has(t.Context(), []digest.Digest{a, b, c})
		if err != nil || n != tt.want {
			t.Errorf("%s: %d, %v; want %d", tt.driver, n, err, tt.want)
		}
	}
}

func TestLoadSaysWhatTheEngineSays(t *testing.T) {
	read := func(in io.Reader) string {
		b, _ := io.ReadAll(in)
		return `{"stream":"Loaded image: ` + string(b) + `\n"}` + "\n"
	}
	archive := func(w io.Writer) error { _, err := io.WriteString(w, "app:1"); return err }
	if said, err := fakeEngine(t, "", nil, read).Load(t.Context(), archive); err != nil || said != "Loaded image: app:1" {
		t.Errorf("%q, %v", said, err)
	}
	refuse := func(io.Reader) string { return `{"errorDetail":{"message":"bad"},"error":"bad"}` }
	if _, err := fakeEngine(t, "", nil, refuse).Load(t.Context(), archive); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("%v", err)
	}
	broken := errors.New("broken")
	if _, err := fakeEngine(t, "", nil, read).Load(t.Context(), func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return broken }); !errors.Is(err, broken) {
		t.Errorf("%v, want why it could not be written", err)
	}
}
