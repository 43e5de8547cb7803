package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Check asks the registry domain whether it knows who shows it these credentials.
func (c *Client) Check(ctx context.Context, domain string, with Credential) error {
	ref := Ref{Domain: domain}
	opts, scheme := c.spoken(domain)
	reg, err := name.NewRegistry(domain, opts...)
	if err != nil {
		return err
	}
	auth := authn.FromConfig(authn.AuthConfig{Username: with.Username, Password: with.Password, IdentityToken: with.IdentityToken})
	s := &session{c: c, ref: ref, host: reg.RegistryStr(), scheme: scheme}
	err = s.retry(ctx, func() error {
		rt, err := transport.NewWithContext(ctx, reg, auth, c.guard(), nil)
		if err != nil {
			return badRealm(ref, err)
		}
		s.http = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.scheme+"://"+s.host+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := s.do(req, http.StatusOK)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	var status *transport.Error
	if errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden) {
		return &Error{Ref: domain, Msg: "the registry does not take this name and password", Err: &remark{status}, Cause: ErrDenied,
			Way: "many registries want a token in the password's place: look for access tokens in your account there"}
	}
	err = explain(ref, err, "")
	var e *Error
	if errors.As(err, &e) {
		e.Way = strings.TrimSuffix(e.Way, bringIn)
	}
	return err
}

// Keep stores the credentials of a registry where For finds them: with the helper that
// the first of the files names for it, or in that file itself, for its owner alone. It returns
// where they are. All else in the file stays.
func (k Keychain) Keep(ctx context.Context, domain string, c Credential) (where string, err error) {
	cfg, err := k.first()
	if err != nil {
		return "", err
	}
	if helper, _ := cfg.helper(domain); helper != "" {
		b, err := json.Marshal(map[string]string{"ServerURL": serverKey(domain), "Username": c.Username, "Secret": c.Password})
		if err != nil {
			return "", err
		}
		if err := k.tell(ctx, helper, "store", string(b)); err != nil {
			return "", err
		}
		_, err = cfg.drop(domain) // an older one, in clear text
		return "credential helper " + helper, err
	}
	return cfg.file, cfg.change(func(auths map[string]json.RawMessage) error {
		dropAll(auths, domain) // older spellings of the same too
		b, err := json.Marshal(map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))})
		auths[serverKey(domain)] = b
		return err
	})
}

// Forget removes the credentials of a registry from where Keep puts them, and says
// whether there were any. left are the files that have some all the same: other files, which nobody
// writes here, and those of repositories in the registry alone.
func (k Keychain) Forget(ctx context.Context, domain string) (had bool, left []string, err error) {
	cfg, err := k.first()
	if err != nil {
		return false, nil, err
	}
	if helper, _ := cfg.helper(domain); helper != "" {
		if _, had, err = k.ask(ctx, helper, serverKey(domain)); had && err == nil {
			err = k.tell(ctx, helper, "erase", serverKey(domain))
		}
		if err != nil {
			return had, nil, err
		}
	}
	dropped, err := cfg.drop(domain)
	if err != nil {
		return had, nil, err
	}
	for i, file := range k.Files {
		if other, err := readConfig(file); err == nil && k.has(ctx, other, domain, i > 0) { // what cannot be read is shown to nobody
			left = append(left, file)
		}
	}
	return had || dropped, left, nil
}

// has says whether a file has something for a registry, or for a repository in it; helpers says
// to ask its helper too.
func (k Keychain) has(ctx context.Context, cfg *dockerConfig, domain string, helpers bool) bool {
	for key, a := range cfg.Auths {
		if host, _ := hostOf(key); sameHost(host, domain) && a != (fileAuth{}) {
			return true
		}
	}
	if !helpers {
		return false
	}
	c, ok, err := k.inConfig(ctx, cfg, domain, "")
	return err == nil && ok && c != (Credential{})
}

// drop removes the credentials of domain from the file, and says whether there were any.
func (w *writable) drop(domain string) (had bool, err error) {
	for key, a := range w.Auths {
		_, is := matches(key, domain, "")
		had = had || is && a != (fileAuth{}) // docker leaves empty ones beside a helper
	}
	if !had {
		return false, nil
	}
	return true, w.change(func(auths map[string]json.RawMessage) error {
		dropAll(auths, domain)
		return nil
	})
}

func dropAll(auths map[string]json.RawMessage, domain string) {
	for key := range auths {
		if _, is := matches(key, domain, ""); is {
			delete(auths, key)
		}
	}
}

// writable is the file of credentials that is written.
type writable struct {
	file string
	*dockerConfig
}

func (k Keychain) first() (*writable, error) {
	if len(k.Files) == 0 {
		return nil, &Error{Ref: "credentials", Msg: "there is no place for them", Way: "set HOME, or DOCKER_CONFIG to a folder"}
	}
	cfg, err := readConfig(k.Files[0])
	if errors.Is(err, fs.ErrNotExist) {
		cfg, err = &dockerConfig{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return &writable{k.Files[0], cfg}, nil
}

// tell has a credential helper store or erase something.
func (k Keychain) tell(ctx context.Context, helper, verb, input string) error {
	if !helperForm.MatchString(helper) {
		return fmt.Errorf("credential helper %q: not a name", helper)
	}
	out, err := runHelper(ctx, helper, verb, input)
	if err != nil {
		return fmt.Errorf("credential helper %s: %s: %w%s", helper, verb, err, firstLine(out))
	}
	return nil
}

// change rewrites the part auths of the file, which is replaced whole. Those who
// change it at once, by whittle, wait for each other.
func (w *writable) change(do func(auths map[string]json.RawMessage) error) (err error) {
	file := w.file
	if to, err := filepath.EvalSymlinks(file); err == nil {
		file = to
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close() // with the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("%s: lock: %w", dir, err)
	}
	doc, auths := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	old, err := os.ReadFile(file)
	if err == nil && (json.Unmarshal(old, &doc) != nil || doc["auths"] != nil && json.Unmarshal(doc["auths"], &auths) != nil) {
		return fmt.Errorf("%s: not the JSON of a docker config", file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := do(auths); err != nil {
		return err
	}
	if doc["auths"], err = json.Marshal(auths); err != nil {
		return err
	}
	b, err := json.MarshalIndent(doc, "", "\t")
	if err != nil || bytes.Equal(b, old) {
		return err
	}
	tmp := filepath.Join(dir, ".whittle-"+rand.Text()[:12])
	defer os.Remove(tmp) // which is not there when all went well
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
