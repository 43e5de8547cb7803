package execute

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/whittle-build/whittle/internal/sandbox"
)

// agentName is the name of the socket in its folder.
const agentName = "agent"

// agent mounts the socket of an agent. Serving ends with the step.
func (m *mounting) agent(i int) error {
	p := &m.job.Step.Run.Mounts[i]
	src := m.local.Agents[p.ID]
	if src == nil {
		if !p.Required {
			return nil
		}
		return m.mistake(fmt.Sprintf("no SSH key %q forwarded from the client", p.ID), fmt.Sprintf("build with --ssh %s, or --ssh %s=SOCKET|KEYFILE", p.ID, p.ID))
	}
	dir, err := m.folder(fmt.Sprintf("ssh-%d", i))
	if err != nil {
		return err
	}
	l, err := listen(dir)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		src.Serve(l)
	}()
	m.closers = append(m.closers, func() error {
		err := l.Close()
		<-done
		return err
	})
	path := filepath.Join(dir, agentName)
	if err := os.Chown(path, int(p.UID), int(p.GID)); err != nil {
		return m.mistake(fmt.Sprintf("ssh %s: user %d:%d: this user namespace has no such id", p.ID, p.UID, p.GID),
			idsHint())
	}
	if err := os.Chmod(path, os.FileMode(p.Mode&0o777)); err != nil {
		return err
	}
	m.list = append(m.list, sandbox.Mount{Target: p.Target, Path: path})
	return nil
}

// listen makes the socket by a short name: the path of a store may be longer
// than an address of unix(7) can be.
func listen(dir string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), agentName))
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the folder goes, and its name is not this one by then
	return l, nil
}
