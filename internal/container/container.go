// Package container owns containers made from images: creating, running,
// entering, copying and removing them.
//
// There is no daemon. A container that runs has a monitor, the whittle process
// that started it, which holds a lock on the container's folder for as long as
// it lives; so a container whose lock is free does not run, whatever its
// document says, and a killed monitor leaves nothing running. Other processes
// talk to the monitor over a socket in that folder. Any number of processes
// may do anything to one container at once: what cannot go together waits, or
// is refused.
//
// It does not pull images and knows nothing of flags.
package container

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/store"
)

// Kinds of documents and folders in the store.
const (
	kind     = "container"
	kindName = "container-name"
)

// Spec is how a container is to run, all defaults of the image applied.
type Spec struct {
	Args     []string `json:"args"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	User     string   `json:"user"`
	Hostname string   `json:"hostname"`
	Hosts    []string `json:"hosts,omitempty"` // "ip\tname"
	Network  string   `json:"network"`         // "host", "none" or "private"
	Ports    []Port   `json:"ports,omitempty"`
	Mounts   []Mount  `json:"mounts,omitempty"`
	ReadOnly bool     `json:"readOnly,omitempty"` // the root file system
	ShmSize  int64    `json:"shmSize,omitempty"`  // of /dev/shm; 0 is the default
	TTY      bool     `json:"tty,omitempty"`
	Stdin    bool     `json:"stdin,omitempty"`  // keep standard input open
	Remove   bool     `json:"remove,omitempty"` // when it has ended

	Stop     string            `json:"stop,omitempty"`     // signal; "" is SIGTERM
	StopWait *int              `json:"stopWait,omitempty"` // seconds until it is killed, below 0 never; nil is DefaultStopWait
	Labels   map[string]string `json:"labels,omitempty"`
}

// Container is a container's document.
type Container struct {
	ID        string        `json:"id"`
	Name      string        `json:"name"`
	Image     digest.Digest `json:"image"`
	ImageName string        `json:"imageName"`
	Chain     rootfs.Chain  `json:"chain"`
	Spec      Spec          `json:"spec"`
	Created   time.Time     `json:"created"`
	Started   time.Time     `json:"started,omitzero"`
	Finished  time.Time     `json:"finished,omitzero"`
	ExitCode  int           `json:"exitCode"`
	Error     string        `json:"error,omitempty"` // why it did not start
	Bound     []Port        `json:"bound,omitempty"` // its ports while it runs, host ports chosen
	Failed    *FailedStep   `json:"failed,omitempty"`

	// Running is found out, not stored.
	Running bool `json:"-"`
}

// Error is a mistake about containers, with a way out.
type Error struct {
	Msg, Way string
	Err      error
}

func (e *Error) Error() string { return e.Msg }

// Hint says what can be done about it.
func (e *Error) Hint() string  { return e.Way }
func (e *Error) Unwrap() error { return e.Err }

// ErrNotFound is wrapped by the error for a container that is not there.
var ErrNotFound = errors.New("no such container")

// Set is the containers of a store.
type Set struct {
	Store *store.Store
	Roots *rootfs.Roots
	Now   func() time.Time
}

// maxName keeps a name far below what a file name may have.
const maxName = 128

// Create makes a container of an image; it does not run yet. An empty name
// gives it a random one. A name that is taken is an error.
func (s *Set) Create(c Container) (*Container, error) {
	var id [32]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	c.ID, c.Created = hex.EncodeToString(id[:]), s.Now().UTC()
	s.sweep()
	if c.Spec.Hostname == "" {
		c.Spec.Hostname = c.ID[:12]
	}
	if err := s.claimName(&c); err != nil {
		return nil, errors.Join(err, s.Store.DeleteDoc(kind, c.ID), s.Store.RemoveFolder(kind, c.ID))
	}
	return &c, nil
}

// sweep removes containers that were to go by themselves and whose monitor was
// killed before it could see to it. One that cannot be removed stays, and so
// does one that somebody is busy with: nobody waits for that.
func (s *Set) sweep() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	list, err := s.List()
	if err != nil {
		return
	}
	for _, c := range list {
		if c.Spec.Remove && c.Killed() {
			_ = s.Remove(ended, c, false)
		}
	}
}

func (s *Set) make(c *Container) error {
	dir, err := s.Store.Folder(kind, c.ID)
	if err != nil {
		return err
	}
	ownSources(c, dir)
	if err := s.makeVolumes(c); err != nil {
		return err
	}
	return s.put(c)
}

func (s *Set) claimName(c *Container) error {
	given := c.Name != ""
	if given && !validName(c.Name) {
		return &Error{Msg: fmt.Sprintf("%q is not a name for a container", c.Name),
			Way: fmt.Sprintf("use up to %d letters, digits, _ . and -, beginning with a letter or a digit", maxName)}
	}
	for range 20 {
		if !given {
			c.Name = randomName()
		}
		// Made before its name is claimed: a name whose container has no
		// document looks free to others.
		err := s.make(c)
		if err == nil {
			err = s.claim(c)
		}
		if err == nil || given || !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return fmt.Errorf("container %.12s: found no free name", c.ID)
}

// claim takes the name unless a container that is still there has it.
func (s *Set) claim(c *Container) error {
	return s.Store.UpdateDoc(kindName, c.Name, func(old []byte) ([]byte, error) {
		if id := idIn(old); id != "" {
			if _, err := s.get(id); err == nil {
				return nil, &Error{Msg: fmt.Sprintf("container name %q is taken by container %.12s", c.Name, id),
					Way: fmt.Sprintf("remove it first (rm -f %s), or use another name", c.Name), Err: fs.ErrExist}
			}
		}
		return json.Marshal(c.ID)
	})
}

// idIn reads the document of a name.
func idIn(b []byte) string {
	var id string
	if len(b) == 0 || json.Unmarshal(b, &id) != nil {
		return ""
	}
	return id
}

// validName is docker's rule for names.
func validName(s string) bool {
	for i, r := range s {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// folder is where a container keeps its upper directory, log and socket.
func (s *Set) folder(c *Container) (string, error) { return s.Store.FolderPath(kind, c.ID) }

func (s *Set) put(c *Container) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := s.Store.PutDoc(kind, c.ID, b); err != nil {
		return fmt.Errorf("container %s: %w", c.Name, err)
	}
	return nil
}

func (s *Set) get(id string) (*Container, error) {
	b, err := s.Store.Doc(kind, id)
	if err != nil {
		return nil, err
	}
	var c Container
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	dir, err := s.folder(&c)
	if err != nil {
		return nil, err
	}
	ownSources(&c, dir)
	if c.Running = locked(dir); c.Killed() {
		c.ExitCode = codeKilled
	}
	return &c, nil
}

// List returns all containers, the youngest first.
func (s *Set) List() ([]*Container, error) {
	ids, err := s.Store.Docs(kind)
	if err != nil {
		return nil, err
	}
	var out []*Container
	for _, id := range ids {
		c, err := s.get(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Container) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// Find returns the container that ref means: a name, an ID, or the beginning
// of one.
func (s *Set) Find(ref string) (*Container, error) {
	if validName(ref) {
		id, err := s.Store.Doc(kindName, ref)
		if err == nil {
			if c, err := s.get(idIn(id)); err == nil && c.Name == ref {
				return c, nil
			}
		}
	}
	ids, err := s.Store.Docs(kind)
	if err != nil {
		return nil, err
	}
	found := withPrefix(ids, ref)
	if len(found) > 1 {
		return nil, &Error{Msg: fmt.Sprintf("%s: the IDs of %d containers begin so", ref, len(found)), Way: "give more digits of the ID, or the name"}
	}
	if len(found) == 1 {
		c, err := s.get(found[0])
		if !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
	}
	if ref == LatestFailed {
		return s.latestFailed()
	}
	return nil, notFound(ref)
}

func notFound(ref string) error {
	return &Error{Msg: fmt.Sprintf("no such container: %s", ref), Way: "ps -a lists all containers", Err: ErrNotFound}
}

func withPrefix(ids []string, ref string) []string {
	var found []string
	for _, id := range ids {
		if ref != "" && strings.HasPrefix(id, ref) {
			found = append(found, id)
		}
	}
	return found
}

// Remove removes a container and all that it wrote. A running one is killed
// first when force is set, and is an error otherwise. One that is gone already
// is no error.
func (s *Set) Remove(ctx context.Context, c *Container, force bool) error {
	for {
		change, err := s.change(ctx, c)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if !c.Running {
			return errors.Join(s.remove(c), change.Close())
		}
		if err := change.Close(); err != nil {
			return err
		}
		if !force {
			return &Error{Msg: fmt.Sprintf("container %s is running", c.Name),
				Way: fmt.Sprintf("stop it first (stop %s), or use rm -f", c.Name), Err: ErrRunning}
		}
		if err := s.Kill(ctx, c); err != nil {
			return err
		}
	}
}

// remove removes c, which nobody else can change meanwhile. The document goes
// first: a crash leaves a folder that belongs to nothing, not half a container.
func (s *Set) remove(c *Container) error {
	if err := s.Store.DeleteDoc(kind, c.ID); err != nil {
		return fmt.Errorf("container %s: %w", c.Name, err)
	}
	if err := s.releaseName(c); err != nil {
		return fmt.Errorf("container %s: %w", c.Name, err)
	}
	return s.Store.RemoveFolder(kind, c.ID)
}

// releaseName gives the name back, unless another container took it.
func (s *Set) releaseName(c *Container) error {
	return s.Store.UpdateDoc(kindName, c.Name, func(old []byte) ([]byte, error) {
		if idIn(old) == c.ID {
			return nil, nil
		}
		return old, nil
	})
}

// codeKilled is the exit code of a process that SIGKILL ended.
const codeKilled = 137

// The states of a container.
const (
	Created = "created"
	Running = "running"
	Exited  = "exited"
)

// State is created, running or exited.
func (c *Container) State() string {
	switch {
	case c.Running:
		return Running
	case c.Started.IsZero() && c.Finished.IsZero():
		return Created
	}
	return Exited
}

// Killed reports whether the monitor died while the container ran: how that
// ended is not known, but its processes were killed.
func (c *Container) Killed() bool {
	return !c.Running && c.Finished.Before(c.Started)
}

// Status is the state as docker ps shows it.
func (c *Container) Status(now time.Time, age func(time.Duration) string) string {
	switch {
	case c.Running:
		return "Up " + strings.TrimSuffix(age(now.Sub(c.Started)), " ago")
	case c.State() == Created:
		return "Created"
	case c.Killed():
		return fmt.Sprintf("Exited (%d) whittle was killed", codeKilled)
	}
	return fmt.Sprintf("Exited (%d) %s", c.ExitCode, age(now.Sub(c.Finished)))
}
