package settings

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/registry"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, Name)
	tests := map[string]struct {
		text string
		want registry.Hosts
		err  string
	}{
		"nothing": {"", registry.Hosts{}, ""},
		"mirrors": {`[registry."docker.io"]
mirrors = ["mirror.local:5000", "https://harbor.example.com/proxy/docker/"]`, registry.Hosts{"docker.io": {Mirrors: []registry.Mirror{{Domain: "mirror.local:5000"}, {Domain: "harbor.example.com", Prefix: "proxy/docker"}}}}, ""},
		"all": {`[registry."a.example.com:5000"]
http = true
insecure = true
ca = ["ca.pem", "/etc/ca.pem"]
[[registry."a.example.com:5000".keypair]]
cert = "c.pem"
key = "k.pem"`, registry.Hosts{"a.example.com:5000": {HTTP: true, Insecure: true, CA: []string{filepath.Join(dir, "ca.pem"), "/etc/ca.pem"},
			Pairs: []registry.Pair{{Cert: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "k.pem")}}}}, ""},
		"half a pair":     {"[[registry.a.keypair]]\ncert = \"c\"", nil, "a keypair has a cert and a key"},
		"no host":         {`[registry."https://a"]`, nil, "is no host"},
		"no host either":  {`[registry."a/b"]`, nil, "is no host"},
		"mirror by query": {"[registry.a]\nmirrors = [\"b/c?d\"]", nil, "want HOST or HOST/PREFIX"},
		"mirror by http":  {"[registry.a]\nmirrors = [\"http://b\"]", nil, "without http://"},
		"unknown":         {"[registry.a]\nplain = true", nil, ":2: registry.a.plain: unknown"},
		"unknown table":   {"[worker.oci]", nil, "worker"},
		"wrong type":      {"[registry.a]\nhttp = \"yes\"", nil, ":2: "},
		"no TOML":         {"registry", nil, ":1: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Read([]string{filepath.Join(dir, "none"), file})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), file) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestWithoutAFileNothingIsSaid(t *testing.T) {
	if got, err := Read([]string{filepath.Join(t.TempDir(), Name)}); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTheUsersFileComesBeforeTheMachines(t *testing.T) {
	env := map[string]string{"HOME": "/home/u"}
	get := func(k string) string { return env[k] }
	if got := strings.Join(Files(get), " "); got != "/home/u/.config/whittle/whittle.toml /etc/whittle/whittle.toml" {
		t.Error(got)
	}
	env["XDG_CONFIG_HOME"] = "/conf"
	if got := Files(get)[0]; got != "/conf/whittle/whittle.toml" {
		t.Error(got)
	}
	env["XDG_CONFIG_HOME"] = "relative" // to be ignored, says its specification
	if got := Files(get)[0]; got != "/home/u/.config/whittle/whittle.toml" {
		t.Error(got)
	}
}
