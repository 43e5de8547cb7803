package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// agentKeys is a program for steps: it says, after its argument, what the agent
// at $SSH_AUTH_SOCK lets it do.
func agentKeys() {
	if err := tryAgent(os.Args[1]); err != nil {
		fmt.Println(os.Args[1]+":", err)
		os.Exit(1)
	}
}

func tryAgent(who string) error {
	sock := os.Getenv("SSH_AUTH_SOCK")
	if sock == "" {
		fmt.Println(who + ": no agent")
		return nil
	}
	c, err := net.Dial("unix", sock)
	if err != nil {
		return err
	}
	defer c.Close()
	a := agent.NewClient(c)
	keys, err := a.List()
	if err != nil {
		return err
	}
	for _, k := range keys {
		sig, err := a.Sign(k, []byte("text"))
		if err != nil {
			return err
		}
		if err := k.Verify([]byte("text"), sig); err != nil {
			return err
		}
	}
	removing := "refused"
	if err := a.RemoveAll(); err == nil {
		removing = "done"
	}
	st, err := os.Stat(sock)
	if err != nil {
		return err
	}
	sys := st.Sys().(*syscall.Stat_t)
	fmt.Printf("%s: signed with %d key, removing %s, socket %o %d:%d %s\n", who, len(keys), removing, st.Mode().Perm(), sys.Uid, sys.Gid, sock)
	return nil
}

// newKey writes a private key to a file.
func newKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sshkey FILE")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	block, err := ssh.MarshalPrivateKey(key, "")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(block), 0o600))
}

// startAgent serves the key in a file on a socket until the script ends.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: agent SOCKET KEYFILE")
	}
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	key, err := ssh.ParseRawPrivateKey(bytes.TrimSpace(b))
	ts.Check(err)
	ring := agent.NewKeyring()
	ts.Check(ring.Add(agent.AddedKey{PrivateKey: key}))
	l, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = agent.ServeAgent(ring, c) // ends with the connection
			}()
		}
	}()
}
