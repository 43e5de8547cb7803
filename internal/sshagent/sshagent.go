// Package sshagent lets a step sign with keys that it never sees: it serves an
// agent, with keys of its own or in front of another agent, on a socket.
//
// Whoever is at the socket may list keys and have something signed. Adding,
// removing and locking keys, and an agent's extensions, are refused: the
// caller's agent is the same after the build.
package sshagent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Source is an agent or a set of keys.
type Source struct {
	socket string
	keys   agent.Agent
}

// Error is why there is no such source.
type Error struct {
	Path string
	Msg  string
	Way  string // out
	Err  error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// Hint returns the way out.
func (e *Error) Hint() string  { return e.Way }
func (e *Error) Unwrap() error { return e.Err }

// maxKey is more than any private key has.
const maxKey = 100 << 10

// Open takes the socket of an agent, or files with private keys.
func Open(paths []string) (*Source, error) {
	ring := agent.NewKeyring()
	for _, p := range paths {
		st, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &Error{p, "no such file", "name the socket of an agent, as ssh-agent prints it in SSH_AUTH_SOCK, or a file with a private key", err}
		}
		if err != nil {
			return nil, err
		}
		if st.Mode()&fs.ModeSocket != 0 {
			if len(paths) > 1 {
				return nil, &Error{p, "only one socket is allowed", "name the socket alone, or the key files alone", nil}
			}
			return &Source{socket: p}, nil
		}
		if err := addKey(ring, p); err != nil {
			return nil, err
		}
	}
	return &Source{keys: ring}, nil
}

func addKey(ring agent.Agent, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return err
	}
	key, err := ssh.ParseRawPrivateKey(b)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return &Error{path, "the key has a passphrase", "add it to an agent, ssh-add " + path + ", and give the agent: --ssh default", err}
	}
	if err != nil {
		return &Error{path, fmt.Sprintf("failed to parse: %v", err), "name a file with a private key, or the socket of an agent", err}
	}
	return ring.Add(agent.AddedKey{PrivateKey: key})
}

// Serve answers on l until it is closed, and returns when everybody who was
// connected is gone.
func (s *Source) Serve(l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		mu.Lock()
		open[c] = true
		mu.Unlock()
		wg.Go(func() {
			s.serve(c)
			mu.Lock()
			delete(open, c)
			mu.Unlock()
			c.Close()
		})
	}
	mu.Lock()
	defer mu.Unlock()
	for c := range open {
		c.Close()
	}
}

func (s *Source) serve(c net.Conn) {
	a := s.keys
	if a == nil {
		to, err := net.Dial("unix", s.socket)
		if err != nil {
			return // the step hears that the agent is gone
		}
		defer to.Close()
		a = agent.NewClient(to)
	}
	_ = agent.ServeAgent(readOnly{a}, c) // ends with the connection, whose errors are the step's
}

// readOnly is an agent that signs and does nothing else.
type readOnly struct{ agent.Agent }

var errRefused = errors.New("not allowed in a build")

func (readOnly) Add(agent.AddedKey) error       { return errRefused }
func (readOnly) Remove(ssh.PublicKey) error     { return errRefused }
func (readOnly) RemoveAll() error               { return errRefused }
func (readOnly) Lock([]byte) error              { return errRefused }
func (readOnly) Unlock([]byte) error            { return errRefused }
func (readOnly) Signers() ([]ssh.Signer, error) { return nil, errRefused }

// SignWithFlags chooses the hash of an RSA signature.
func (r readOnly) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	if e, ok := r.Agent.(agent.ExtendedAgent); ok {
		return e.SignWithFlags(key, data, flags)
	}
	return nil, errRefused
}

// Extension implements agent.ExtendedAgent.
func (readOnly) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }
