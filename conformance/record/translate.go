package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle/conformance/suite"
)

// A translation makes buildctl's options of docker build's.
type translation struct {
	c      *suite.Case
	args   []string
	file   string              // what -f says
	joined map[string][]string // options that take a list
}

// translate returns buildctl's options for the build of a case.
func translate(c *suite.Case) ([]string, error) {
	t := &translation{c: c, file: c.File, joined: map[string][]string{}}
	for args := c.Args; len(args) > 0; {
		flag, value, hasValue := strings.Cut(args[0], "=")
		args = args[1:]
		if h, ok := switches[flag]; ok {
			t.args = append(t.args, h...)
			continue
		}
		h, ok := valued[flag]
		if !ok {
			return nil, fmt.Errorf("%s: no translation for this flag", flag)
		}
		if !hasValue {
			if len(args) == 0 {
				return nil, fmt.Errorf("%s: needs a value", flag)
			}
			value, args = args[0], args[1:]
		}
		if err := h(t, value); err != nil {
			return nil, fmt.Errorf("%s %s: %w", flag, value, err)
		}
	}
	for _, name := range []string{"add-hosts", "ulimit", "no-cache"} {
		if list := t.joined[name]; len(list) > 0 {
			t.opt(name, strings.Join(list, ","))
		}
	}
	return t.args, t.context()
}

func (t *translation) opt(key, value string) { t.args = append(t.args, "--opt", key+"="+value) }

func (t *translation) local(name, dir string) { t.args = append(t.args, "--local", name+"="+dir) }

// switches are flags without a value.
var switches = map[string][]string{
	"--no-cache": {"--opt", "no-cache="},
	"--pull":     {"--opt", "image-resolve-mode=pull"},
}

func option(key string) func(*translation, string) error {
	return func(t *translation, value string) error {
		t.opt(key, value)
		return nil
	}
}

func passed(flag string) func(*translation, string) error {
	return func(t *translation, value string) error {
		t.args = append(t.args, flag, value)
		return nil
	}
}

func list(key string) func(*translation, string) error {
	return func(t *translation, value string) error {
		t.joined[key] = append(t.joined[key], value)
		return nil
	}
}

var valued = map[string]func(*translation, string) error{
	"-f":                file,
	"--file":            file,
	"--target":          option("target"),
	"--platform":        option("platform"),
	"--cgroup-parent":   option("cgroup-parent"),
	"--secret":          passed("--secret"),
	"--ssh":             passed("--ssh"),
	"--ulimit":          list("ulimit"),
	"--no-cache-filter": list("no-cache"),
	"--build-context":   buildContext,
	"--build-arg": func(t *translation, value string) error {
		k, v, ok := strings.Cut(value, "=")
		if !ok {
			if v, ok = t.lookup(k); !ok {
				return nil
			}
		}
		t.opt("build-arg:"+k, v)
		return nil
	},
	"--label": func(t *translation, value string) error {
		k, v, _ := strings.Cut(value, "=")
		t.opt("label:"+k, v)
		return nil
	},
	"--allow": passed("--allow"),
	"--network": func(t *translation, value string) error {
		switch value {
		case "default":
			return nil
		case "host":
			t.args = append(t.args, "--allow", "network.host")
		}
		t.opt("force-network-mode", value)
		return nil
	},
	"--shm-size": func(t *translation, value string) error {
		n, err := bytesOf(value)
		t.opt("shm-size", fmt.Sprint(n))
		return err
	},
	"--add-host": func(t *translation, value string) error {
		if !strings.Contains(value, "=") {
			value = strings.Replace(value, ":", "=", 1)
		}
		t.joined["add-hosts"] = append(t.joined["add-hosts"], value)
		return nil
	},
}

// bytesOf reads a size as the client does, of which it sends the bytes.
func bytesOf(size string) (int64, error) {
	size = strings.TrimSuffix(strings.ToLower(size), "b")
	digits := strings.TrimRight(size, "kmg")
	n, err := strconv.ParseInt(digits, 10, 64)
	return n << map[string]int{"": 0, "k": 10, "m": 20, "g": 30}[size[len(digits):]], err
}

// lookup returns a variable of the client's environment.
func (t *translation) lookup(name string) (string, bool) {
	for _, kv := range t.c.Env {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v, true
		}
	}
	return "", false
}

func file(t *translation, value string) error {
	t.file = value
	return nil
}

// buildContext names a further context. A folder is sent by the client, as is
// an OCI layout, which is named by the digest of its only image.
func buildContext(t *translation, value string) error {
	name, from, ok := strings.Cut(value, "=")
	if !ok {
		return errors.New("want NAME=VALUE")
	}
	key := "context:" + name
	layout, isLayout := strings.CutPrefix(from, "oci-layout://")
	switch {
	case isLayout:
		digest, err := only(&layout)
		if err != nil {
			return err
		}
		t.args = append(t.args, "--oci-layout", "store-"+name+"="+layout)
		t.opt(key, "oci-layout://store-"+name+"@"+digest)
	case strings.Contains(from, "://"), strings.HasPrefix(from, "git@"):
		t.opt(key, from)
	default:
		t.local("context-"+name, from)
		t.opt(key, "local:context-"+name)
	}
	return nil
}

// only cuts a tag or a digest off the path of an OCI layout, and returns the
// digest of the image that is meant.
func only(layout *string) (string, error) {
	if path, digest, ok := strings.Cut(*layout, "@"); ok {
		*layout = path
		return digest, nil
	}
	tag := ""
	if i := strings.LastIndex(*layout, ":"); i > strings.LastIndex(*layout, "/") {
		*layout, tag = (*layout)[:i], (*layout)[i+1:]
	}
	text, err := os.ReadFile(filepath.Join(*layout, "index.json"))
	if err != nil {
		return "", err
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return "", err
	}
	for _, m := range index.Manifests {
		if tag == "" && len(index.Manifests) == 1 || m.Annotations["org.opencontainers.image.ref.name"] == tag && tag != "" {
			return m.Digest, nil
		}
	}
	return "", fmt.Errorf("%s: no image %q", *layout, tag)
}

// context names the main context and the Dockerfile.
func (t *translation) context() error {
	c := t.c
	switch {
	case c.Context == "-":
		return t.standardInput()
	case c.Local():
		t.local("context", c.Context)
	default:
		t.opt("context", c.Context)
	}
	switch {
	case t.file == "-":
		return t.fileFromStandardInput()
	case t.file != "" && (c.Local() || filepath.IsAbs(t.file)):
		t.local("dockerfile", filepath.Dir(t.file))
		t.opt("filename", filepath.Base(t.file))
	case t.file != "":
		t.opt("filename", t.file)
	case c.Local():
		t.local("dockerfile", c.Context)
	}
	return nil
}

func (t *translation) fileFromStandardInput() error {
	text, err := os.ReadFile(t.c.Stdin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(t.c.Dir, "stdin")
	if err != nil {
		return err
	}
	t.local("dockerfile", dir)
	if t.c.Context != "-" && !t.c.Local() {
		t.opt("dockerfilekey", "dockerfile") // else it is looked for in the context
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), text, 0o644)
}

// standardInput makes what a client makes of standard input as the context: a
// Dockerfile without a context, or an archive, which it gives the daemon as the
// file of a server.
func (t *translation) standardInput() error {
	text, err := os.ReadFile(t.c.Stdin)
	if err != nil {
		return err
	}
	if !isArchive(text) {
		empty, err := os.MkdirTemp(t.c.Dir, "empty")
		if err != nil {
			return err
		}
		t.local("context", empty)
		return t.fileFromStandardInput()
	}
	url, err := t.c.Upload(text)
	if err != nil {
		return err
	}
	t.opt("context", url)
	if t.file != "" {
		t.opt("filename", t.file)
	}
	return nil
}

func isArchive(text []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(text, []byte(magic)) {
			return true
		}
	}
	return len(text) > 262 && string(text[257:262]) == "ustar" || http.DetectContentType(text) == "application/x-tar"
}
