// Package config owns the image config: what an image says of itself, to run
// and to build on. It reads any config that Docker or an OCI builder wrote and
// writes the form that the reference builder writes. Top-level keys that it does
// not know are kept, those within the part "config" are not.
//
// It is pure data; where a config is stored is no matter here.
package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// Image is the whole config document of an image; the SHA-256 of its JSON is
// the image's ID.
type Image struct {
	Created      *time.Time
	Author       string
	Architecture string
	OS           string
	OSVersion    string
	OSFeatures   []string
	Variant      string
	Config       Config
	DiffIDs      []digest.Digest
	History      []History
	// Extra are the top-level keys that this package does not know, kept from
	// a base image's config.
	Extra map[string]json.RawMessage
}

// Config is how to run the image. The order of fields is the order in which
// the reference builder writes them.
type Config struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	ArgsEscaped  bool                `json:"ArgsEscaped,omitempty"`
	Healthcheck  *Healthcheck        `json:"Healthcheck,omitempty"`
	OnBuild      []string            `json:"OnBuild,omitempty"`
	Shell        []string            `json:"Shell,omitempty"`
}

// Healthcheck is how to ask a container for its health. Durations are in
// nanoseconds; zero means the engine's default.
type Healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// History is the record of one instruction.
type History struct {
	Created    *time.Time `json:"created,omitempty"`
	CreatedBy  string     `json:"created_by,omitempty"`
	Author     string     `json:"author,omitempty"`
	Comment    string     `json:"comment,omitempty"`
	EmptyLayer bool       `json:"empty_layer,omitempty"`
}

// Comment is the comment of every history entry that a Dockerfile makes.
const Comment = "buildkit.dockerfile.v0"

// DefaultPath is the PATH of images that do not set one.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

type rootFS struct {
	Type    string          `json:"type"`
	DiffIDs []digest.Digest `json:"diff_ids"`
}

// Clone returns a copy that shares nothing with c.
func (c Config) Clone() Config {
	c.ExposedPorts = maps.Clone(c.ExposedPorts)
	c.Env = slices.Clone(c.Env)
	c.Entrypoint = slices.Clone(c.Entrypoint)
	c.Cmd = slices.Clone(c.Cmd)
	c.Volumes = maps.Clone(c.Volumes)
	c.Labels = maps.Clone(c.Labels)
	c.OnBuild = slices.Clone(c.OnBuild)
	c.Shell = slices.Clone(c.Shell)
	if c.Healthcheck != nil {
		h := *c.Healthcheck
		h.Test = slices.Clone(h.Test)
		c.Healthcheck = &h
	}
	return c
}

// Clone returns a copy that shares nothing that is ever changed.
func (m Image) Clone() Image {
	m.Config = m.Config.Clone()
	m.DiffIDs = slices.Clone(m.DiffIDs)
	m.History = slices.Clone(m.History)
	m.OSFeatures = slices.Clone(m.OSFeatures)
	m.Extra = maps.Clone(m.Extra)
	return m
}

// Getenv returns the value of name in the config's environment.
func (c *Config) Getenv(name string) (string, bool) {
	for _, kv := range c.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v, true
		}
	}
	return "", false
}

// Setenv replaces name in place, or appends it.
func (c *Config) Setenv(name, value string) {
	for i, kv := range c.Env {
		if k, _, _ := strings.Cut(kv, "="); k == name {
			c.Env[i] = name + "=" + value
			return
		}
	}
	c.Env = append(c.Env, name+"="+value)
}

// MarshalJSON writes the document compactly, top-level keys sorted, as the
// reference builder does: through a map to keep unknown keys, HTML escapes
// included, since the bytes are hashed.
func (m Image) MarshalJSON() ([]byte, error) {
	doc := maps.Clone(m.Extra)
	if doc == nil {
		doc = map[string]json.RawMessage{}
	}
	fields := []struct {
		key  string
		val  any
		omit bool
	}{
		{"created", m.Created, false},
		{"author", m.Author, m.Author == ""},
		{"architecture", m.Architecture, false},
		{"os", m.OS, false},
		{"os.version", m.OSVersion, m.OSVersion == ""},
		{"os.features", m.OSFeatures, len(m.OSFeatures) == 0},
		{"variant", m.Variant, m.Variant == ""},
		{"config", m.Config, false},
		{"rootfs", rootFS{"layers", m.DiffIDs}, false},
		{"history", m.History, false},
	}
	for _, f := range fields {
		if f.omit {
			delete(doc, f.key)
			continue
		}
		b, err := json.Marshal(f.val)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.key, err)
		}
		doc[f.key] = b
	}
	return json.Marshal(doc)
}

// UnmarshalJSON reads a config document; keys that it does not know go to
// Extra.
func (m *Image) UnmarshalJSON(b []byte) error {
	doc := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &doc); err != nil {
		return err
	}
	var root rootFS
	*m = Image{}
	fields := []struct {
		key string
		val any
	}{
		{"created", &m.Created}, {"author", &m.Author}, {"architecture", &m.Architecture},
		{"os", &m.OS}, {"os.version", &m.OSVersion}, {"os.features", &m.OSFeatures},
		{"variant", &m.Variant}, {"config", &m.Config}, {"rootfs", &root}, {"history", &m.History},
	}
	for _, f := range fields {
		raw, ok := doc[f.key]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, f.val); err != nil {
			return fmt.Errorf("%s: %w", f.key, err)
		}
		delete(doc, f.key)
	}
	m.DiffIDs = root.DiffIDs
	m.Extra = doc
	return nil
}

// Parse reads a config document of at most a few megabytes. It must be one
// JSON object with nothing after it.
func Parse(b []byte) (*Image, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		return nil, errors.New("image config: not a JSON object")
	}
	var m Image
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	return &m, nil
}
