// Package settings reads whittle.toml, the file in which a user or a machine says how
// registries are reached. Its keys are those of buildkitd.toml.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/registry"
)

// Name is what the file is called.
const Name = "whittle.toml"

// Files lists where the file may be; the first that is there counts: the user's, and
// the machine's.
func Files(getenv func(string) string) []string {
	var out []string
	switch {
	case filepath.IsAbs(getenv("XDG_CONFIG_HOME")):
		out = append(out, filepath.Join(getenv("XDG_CONFIG_HOME"), "whittle", Name))
	case getenv("HOME") != "":
		out = append(out, filepath.Join(getenv("HOME"), ".config", "whittle", Name))
	}
	return append(out, filepath.Join("/etc/whittle", Name))
}

// CertDirs lists where docker and podman keep certificates of registries.
func CertDirs(getenv func(string) string) []string {
	out := []string{"/etc/containers/certs.d", "/etc/docker/certs.d"}
	if home := getenv("HOME"); home != "" {
		out = append(out, filepath.Join(home, ".config/containers/certs.d"), filepath.Join(home, ".docker/certs.d"))
	}
	return out
}

// document is the file.
type document struct {
	Registry map[string]host `toml:"registry"`
}

type host struct {
	Mirrors  []string `toml:"mirrors"`
	HTTP     bool     `toml:"http"`
	Insecure bool     `toml:"insecure"`
	CA       []string `toml:"ca"`
	Keypair  []struct {
		Cert string `toml:"cert"`
		Key  string `toml:"key"`
	} `toml:"keypair"`
}

// Error is a mistake in the file.
type Error struct {
	Msg string
	Way string
}

func (e *Error) Error() string { return e.Msg }

// Hint returns the way out.
func (e *Error) Hint() string { return e.Way }

// maxFile bounds the file.
const maxFile = 1 << 20

// Read reads the first of the files that is there. Where none is, nothing is said of any
// registry. Paths in it are relative to its folder.
func Read(files []string) (registry.Hosts, error) {
	for _, name := range files {
		st, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && st.Size() > maxFile {
			err = fmt.Errorf("%s: %d bytes, more than %d", name, st.Size(), maxFile)
		}
		if err != nil {
			return nil, err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		return parse(name, b)
	}
	return nil, nil
}

func parse(name string, b []byte) (registry.Hosts, error) {
	var doc document
	d := toml.NewDecoder(strings.NewReader(string(b))).DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, mistake(name, err)
	}
	hosts := registry.Hosts{}
	for domain, h := range doc.Registry {
		if !reDomain.MatchString(domain) {
			return nil, &Error{fmt.Sprintf("%s: registry %q: is no host", name, domain), `write [registry."HOST:PORT"]`}
		}
		one := registry.Host{HTTP: h.HTTP, Insecure: h.Insecure}
		for _, text := range h.Mirrors {
			m, err := mirror(name, domain, text)
			if err != nil {
				return nil, err
			}
			one.Mirrors = append(one.Mirrors, m)
		}
		for _, ca := range h.CA {
			one.CA = append(one.CA, beside(name, ca))
		}
		for _, p := range h.Keypair {
			if p.Cert == "" || p.Key == "" {
				return nil, &Error{fmt.Sprintf("%s: registry %q: a keypair has a cert and a key", name, domain), "name both files"}
			}
			one.Pairs = append(one.Pairs, registry.Pair{Cert: beside(name, p.Cert), Key: beside(name, p.Key)})
		}
		key := registry.Domain(strings.ToLower(domain)) // docker.io has three names
		if _, twice := hosts[key]; twice {
			return nil, &Error{fmt.Sprintf("%s: registry %q: stands there twice", name, key), "write one table for it"}
		}
		hosts[key] = one
	}
	return hosts, nil
}

// reDomain is a host with or without a port.
var reDomain = lazyre.New(`^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:[0-9]{1,5})?$`)

// mirror reads HOST[:PORT][/PREFIX].
func mirror(name, domain, text string) (registry.Mirror, error) {
	bare := strings.TrimPrefix(text, "https://")
	if rest, ok := strings.CutPrefix(text, "http://"); ok {
		host, _, _ := strings.Cut(rest, "/")
		return registry.Mirror{}, &Error{fmt.Sprintf("%s: registry %q: mirror %q: is named without http://", name, domain, text),
			fmt.Sprintf("write %q, and http = true below [registry.%q]", rest, host)}
	}
	host, prefix, _ := strings.Cut(strings.TrimSuffix(bare, "/"), "/")
	u, err := url.Parse("https://" + host + "/" + prefix)
	if !reDomain.MatchString(host) || err != nil || u.RawQuery != "" || u.Fragment != "" {
		return registry.Mirror{}, &Error{fmt.Sprintf("%s: registry %q: mirror %q: want HOST or HOST/PREFIX", name, domain, text), `for example mirrors = ["mirror.example.com"]`}
	}
	return registry.Mirror{Domain: host, Prefix: prefix}, nil
}

func beside(file, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(file), name)
}

// mistake says where the file is wrong.
func mistake(name string, err error) error {
	const way = `there is [registry."HOST"] with mirrors, http, insecure, ca and [[registry."HOST".keypair]]`
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		row, _ := unknown.Errors[0].Position()
		return &Error{fmt.Sprintf("%s:%d: %s: unknown", name, row, strings.Join(unknown.Errors[0].Key(), ".")), way}
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		row, _ := bad.Position()
		msg := strings.TrimPrefix(bad.Error(), "toml: ")
		if rest, ok := strings.CutPrefix(msg, "cannot decode TOML "); ok { // and a type of Go
			kind, _, _ := strings.Cut(rest, " ")
			return &Error{fmt.Sprintf("%s:%d: %s: cannot be of type %s", name, row, strings.Join(bad.Key(), "."), kind),
				`write mirrors and ca as lists, ["…"], and http and insecure as true or false`}
		}
		return &Error{fmt.Sprintf("%s:%d: %s", name, row, msg), way}
	}
	return &Error{fmt.Sprintf("%s: %v", name, err), way}
}
