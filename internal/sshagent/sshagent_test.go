package sshagent

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func keyFile(t *testing.T, name string, key any, passphrase string) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func ed(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// serve serves s and returns the path of its socket.
func serve(t *testing.T, s *Source) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done // also when somebody is still connected
	})
	return path
}

func dial(t *testing.T, path string) agent.ExtendedAgent {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return agent.NewClient(c)
}

func TestKeysOfFilesAndOfAnAgentSignAndCannotBeChanged(t *testing.T) {
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := Open([]string{keyFile(t, "a", ed(t), ""), keyFile(t, "b", old, "")})
	if err != nil {
		t.Fatal(err)
	}
	first := serve(t, keys)
	behind, err := Open([]string{first})
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"keys": first, "an agent": serve(t, behind)} {
		a := dial(t, path)
		list, err := a.List()
		if err != nil || len(list) != 2 {
			t.Fatalf("%s: %d keys, %v", name, len(list), err)
		}
		for _, k := range list {
			var flags agent.SignatureFlags
			if k.Type() == ssh.KeyAlgoRSA {
				flags = agent.SignatureFlagRsaSha512
			}
			sig, err := a.SignWithFlags(k, []byte("x"), flags)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := k.Verify([]byte("x"), sig); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if k.Type() == ssh.KeyAlgoRSA && sig.Format != ssh.KeyAlgoRSASHA512 {
				t.Errorf("%s: an RSA key signed with %s", name, sig.Format)
			}
		}
		for what, err := range map[string]error{
			"Add":       a.Add(agent.AddedKey{PrivateKey: ed(t)}),
			"Remove":    a.Remove(list[0]),
			"RemoveAll": a.RemoveAll(),
			"Lock":      a.Lock([]byte("x")),
			"Unlock":    a.Unlock([]byte("x")),
		} {
			if err == nil {
				t.Errorf("%s: %s is allowed", name, what)
			}
		}
		if _, err := a.Extension("query", nil); err == nil {
			t.Errorf("%s: extensions are allowed", name)
		}
		if list, err := a.List(); err != nil || len(list) != 2 {
			t.Errorf("%s: then it has %d keys, %v", name, len(list), err)
		}
	}
}

func TestAnAgentThatIsGoneIsNoKeys(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	s, err := Open([]string{filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if list, err := dial(t, serve(t, s)).List(); err == nil {
		t.Errorf("it lists %d keys", len(list))
	}
}

func TestWhatIsNoAgentAndNoKey(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		paths []string
		want  string
	}{
		{[]string{text + "-"}, "no such file"},
		{[]string{text}, "failed to parse"},
		{[]string{l.Addr().String(), text}, "only one socket is allowed"},
		{[]string{keyFile(t, "k", ed(t), "secret")}, "the key has a passphrase"},
	} {
		_, err := Open(c.paths)
		var known *Error
		if !errors.As(err, &known) || !strings.Contains(err.Error(), c.want) || known.Hint() == "" {
			t.Errorf("%v: %v, want %s", c.paths, err, c.want)
		}
	}
}
