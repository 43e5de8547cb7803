package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/progress"
)

// Credential is what a registry is shown. The zero value is nobody.
type Credential struct {
	Username, Password string
	IdentityToken      string // to be exchanged for a token
	RegistryToken      string // a token as it is
}

// Keychain finds credentials in the files of docker login and podman login.
// The zero value finds none.
type Keychain struct {
	// Files are looked through in order; one that does not exist is passed
	// over.
	Files []string
	// Helper runs a credential helper (docker-credential-NAME get) with input;
	// nil runs the program.
	Helper func(ctx context.Context, name, input string) ([]byte, error)
}

// CredentialFiles lists where credentials may be, by the environment: the
// file of docker login, then that of podman login.
func CredentialFiles(getenv func(string) string) []string {
	var out []string
	switch {
	case getenv("DOCKER_CONFIG") != "":
		out = append(out, filepath.Join(getenv("DOCKER_CONFIG"), "config.json"))
	case getenv("HOME") != "":
		out = append(out, filepath.Join(getenv("HOME"), ".docker", "config.json"))
	}
	switch {
	case getenv("REGISTRY_AUTH_FILE") != "":
		out = append(out, getenv("REGISTRY_AUTH_FILE"))
	case getenv("XDG_RUNTIME_DIR") != "":
		out = append(out, filepath.Join(getenv("XDG_RUNTIME_DIR"), "containers", "auth.json"))
	}
	return out
}

// dockerConfig is the part of config.json that is about credentials.
type dockerConfig struct {
	Auths       map[string]fileAuth `json:"auths"`
	CredHelpers map[string]string   `json:"credHelpers"`
	CredsStore  string              `json:"credsStore"`
}

// fileAuth are credentials in the file itself.
type fileAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

const (
	hubDomain = "docker.io"
	// hubKey is under which docker login files what belongs to docker.io.
	hubKey = "https://index.docker.io/v1/"
	// maxConfig bounds config.json and a helper's answer.
	maxConfig = 4 << 20
)

// For returns the credentials for the repository path on the registry domain.
// Hosts match whole and exactly, port included: what is filed for
// example.com is not for example.com.evil.org, nor for example.com:8443.
func (k Keychain) For(ctx context.Context, domain, path string) (Credential, error) {
	for _, file := range k.Files {
		cfg, err := readConfig(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Credential{}, fmt.Errorf("credentials: %w", err)
		}
		c, ok, err := k.inConfig(ctx, cfg, domain, path)
		if err != nil {
			return Credential{}, fmt.Errorf("credentials: %s: %w", file, err)
		}
		if ok {
			return c, nil
		}
	}
	return Credential{}, nil
}

func readConfig(file string) (_ *dockerConfig, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return nil, err
	}
	var cfg dockerConfig
	if err := json.Unmarshal(b, &cfg); err != nil {
		// The text of a JSON error may quote the file, and so a secret.
		return nil, fmt.Errorf("%s: not the JSON of a docker config", file)
	}
	return &cfg, nil
}

// inConfig looks in docker's order: a helper for the host, the store for all
// hosts, the file itself. An empty helper for the host is the file.
func (k Keychain) inConfig(ctx context.Context, cfg *dockerConfig, domain, path string) (Credential, bool, error) {
	if helper, own := cfg.helper(domain); helper != "" {
		c, ok, err := k.ask(ctx, helper, serverKey(domain))
		if ok || own || err != nil {
			return c, ok, err
		}
	}
	best, found := -1, Credential{}
	for _, key := range byRank(cfg.Auths, domain) {
		a := cfg.Auths[key]
		n, ok := matches(key, domain, path)
		if !ok || n <= best {
			continue
		}
		c := Credential{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
		if a.Auth != "" {
			var err error
			if c.Username, c.Password, err = decodeAuth(a.Auth); err != nil {
				return Credential{}, false, fmt.Errorf("auths of %s: %w", key, err)
			}
		}
		if c != (Credential{}) {
			best, found = n, c
		}
	}
	return found, best >= 0, nil
}

// helper is the one that keeps the credentials of domain, and whether it is for that alone;
// "" is the file.
func (c *dockerConfig) helper(domain string) (name string, own bool) {
	for _, host := range byRank(c.CredHelpers, domain) {
		if sameHost(host, domain) {
			return c.CredHelpers[host], true
		}
	}
	return c.CredsStore, false
}

// byRank lists the keys of m in one order, whatever the map's: first the one
// that docker login writes for domain, since a host may be filed under several.
func byRank[V any](m map[string]V, domain string) []string {
	keys := slices.Sorted(maps.Keys(m))
	if own := serverKey(domain); slices.Contains(keys, own) {
		keys = append([]string{own}, keys...)
	}
	return keys
}

// way says how a registry that denies access gets credentials, or better ones.
func (k Keychain) way(domain string, found bool) string {
	if len(k.Files) == 0 {
		return "no file with credentials is known: DOCKER_CONFIG or HOME says where it is"
	}
	files := strings.Join(k.Files, " and ")
	if found {
		return "the credentials for " + domain + " in " + files + " do not suffice: whittle login " + domain + " asks for others"
	}
	return "no credentials for " + domain + " in " + files + ": whittle login " + domain + " asks for them and keeps them"
}

func serverKey(domain string) string {
	if domain == hubDomain {
		return hubKey
	}
	return domain
}

// sameHost compares hosts; docker.io has three names.
func sameHost(a, b string) bool { return hubAlias(a) == hubAlias(b) }

func hubAlias(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return hubDomain
	}
	return host
}

// matches reports whether a key of auths is about the repository, and how
// much of its path it names. Keys are hosts, addresses as docker login wrote
// them once (https://HOST/v1/), or HOST/PATH as podman login writes them.
func matches(key, domain, path string) (int, bool) {
	host, rest := hostOf(key)
	if !sameHost(host, domain) {
		return 0, false
	}
	if rest == "" || rest == "v1" || rest == "v2" {
		return 0, true
	}
	if path == rest || strings.HasPrefix(path, rest+"/") {
		return len(rest), true
	}
	return 0, false
}

// hostOf takes apart what credentials are filed under.
func hostOf(key string) (host, path string) {
	for _, scheme := range []string{"https://", "http://"} {
		key = strings.TrimPrefix(key, scheme)
	}
	host, path, _ = strings.Cut(key, "/")
	return host, strings.Trim(path, "/")
}

func decodeAuth(s string) (user, password string, err error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil {
		return "", "", fmt.Errorf("auth is not base64")
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
	if !ok || user == "" {
		return "", "", fmt.Errorf("auth is not USER:PASSWORD in base64")
	}
	return user, password, nil
}

// helperForm keeps a helper's name from being a path.
var helperForm = lazyre.New(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// ask gets the credentials of server from a helper.
func (k Keychain) ask(ctx context.Context, helper, server string) (Credential, bool, error) {
	if !helperForm.MatchString(helper) {
		return Credential{}, false, fmt.Errorf("credential helper %q: not a name", helper)
	}
	run := k.Helper
	if run == nil {
		run = func(ctx context.Context, name, input string) ([]byte, error) {
			return runHelper(ctx, name, "get", input)
		}
	}
	out, err := run(ctx, helper, server)
	if err != nil {
		if strings.Contains(string(out), notInHelper) {
			return Credential{}, false, nil
		}
		return Credential{}, false, fmt.Errorf("credential helper %s: %w%s", helper, err, firstLine(out))
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return Credential{}, false, fmt.Errorf("credential helper %s: its answer is not JSON", helper)
	}
	if answer.Username == "<token>" {
		return Credential{IdentityToken: answer.Secret}, answer.Secret != "", nil
	}
	c := Credential{Username: answer.Username, Password: answer.Secret}
	return c, c != Credential{}, nil
}

// notInHelper is what docker's helpers say when they have nothing.
const notInHelper = "credentials not found in native keychain"

// firstLine is what a helper that failed said, as the end of an error. An answer is not
// shown: it may have the secret in it.
func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" || strings.HasPrefix(line, "{") {
		return ""
	}
	return ": " + progress.Brief(line)
}

const (
	// helperTime is how long a helper may take: it may ask somebody for a password.
	helperTime = time.Minute
	// pipeTime is how long its output is waited for when it is over: what it has left
	// running may hold that for ever.
	pipeTime = time.Second
)

// runHelper runs docker-credential-NAME; what it says comes back with an error
// too, because "credentials not found" is printed there.
func runHelper(ctx context.Context, name, verb, input string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helperTime, fmt.Errorf("did not end within %v", helperTime))
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, verb)
	cmd.WaitDelay = pipeTime
	cmd.Stdin = strings.NewReader(input)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{&out, maxConfig}, &limited{&said, maxConfig}
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it did end, and well
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil && out.Len() == 0 {
		return said.Bytes(), err
	}
	return out.Bytes(), err
}

// limited takes n bytes and refuses more.
type limited struct {
	b *bytes.Buffer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > l.n {
		return 0, fmt.Errorf("more than %d bytes", l.n)
	}
	return l.b.Write(p)
}

// Domain is the host in what docker login takes for a registry: https://HOST/v1/ or
// HOST, under the one name that docker.io goes by.
func Domain(server string) string {
	for _, scheme := range []string{"https://", "http://"} {
		server = strings.TrimPrefix(server, scheme)
	}
	host, _, _ := strings.Cut(server, "/")
	if hubAlias(host) == hubDomain {
		return hubDomain
	}
	return host
}
