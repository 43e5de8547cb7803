package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
)

// Use is a container that uses an image.
type Use struct {
	Container string // its name or ID, as people know it
	Running   bool
}

// Removal says how to remove.
type Removal struct {
	// Force takes all names of an image given by its ID, and removes an image
	// that only stopped containers use.
	Force bool
	// Users returns the containers made from an image.
	Users func(id digest.Digest) ([]Use, error)
}

// Removed is what Remove did: the names taken, in familiar form, and the image
// deleted, if it was.
type Removed struct {
	Untagged []string
	Deleted  digest.Digest // zero while the image has other names
}

// untag takes the name n away from the image id. A name that another image was
// given meanwhile stays with that one: taken is false.
func (c *Catalog) untag(n Name, id digest.Digest) (taken bool, err error) {
	if !n.Digest.IsZero() {
		n.Tag = ""
	}
	err = c.docs.UpdateDoc(KindTag, tagDoc(n), func(old []byte) ([]byte, error) {
		var t tag
		if len(old) == 0 || json.Unmarshal(old, &t) != nil {
			return old, nil
		}
		if taken = t.ID == id; taken {
			return nil, nil
		}
		if i := slices.Index(t.Also, id); i >= 0 { // the name stays with the other platforms
			taken, t.Also = true, slices.Delete(t.Also, i, i+1)
			return json.Marshal(t)
		}
		return old, nil
	})
	if err != nil {
		return false, fmt.Errorf("tag %s: %w", n.Familiar(), err)
	}
	return taken, nil
}

// Remove does what docker rmi does. A reference by name takes the name, and
// the image with it when no other name is left. A reference by ID takes the
// image with its names, if they are all of one repository or Force is set. An
// image that a container uses is not deleted: the error names the containers.
// Layers are left to pruning.
func (c *Catalog) Remove(ref string, how Removal) (Removed, error) {
	m, name, err := c.Resolve(ref)
	if err != nil {
		return Removed{}, err
	}
	s, err := c.Summary(m.ID)
	if err != nil {
		return Removed{}, err
	}
	if !name.IsZero() {
		t, err := c.lookup(name)
		if err != nil {
			return Removed{}, err
		}
		defer c.removeOthers(t.Also, how)
	}
	if !name.IsZero() && !s.lastName(name) {
		var done Removed
		err := c.untagInto(&done, name, m.ID)
		return done, err
	}
	if name.IsZero() && !how.Force && len(s.repositories()) > 1 {
		return Removed{}, &Error{
			Msg: fmt.Sprintf("image %s has names in %d repositories: %s", m.ID.Short(), len(s.repositories()), strings.Join(s.familiar(), ", ")),
			Way: "remove it by name, or with --force",
		}
	}
	if err := how.check(m.ID); err != nil {
		return Removed{}, err
	}
	return c.delete(s)
}

// removeOthers removes images for other platforms that no name stands for any more, and
// no container uses.
func (c *Catalog) removeOthers(ids []digest.Digest, how Removal) {
	for _, id := range ids {
		if s, err := c.Summary(id); err == nil && s.Dangling() && how.check(id) == nil {
			_, _ = c.delete(s) // else prune takes it
		}
	}
}

// Drop removes an image with its names, whoever uses it: that is for the
// caller to know.
func (c *Catalog) Drop(s Summary) (Removed, error) { return c.delete(s) }

func (c *Catalog) untagInto(done *Removed, n Name, id digest.Digest) error {
	taken, err := c.untag(n, id)
	if taken {
		done.Untagged = append(done.Untagged, n.Familiar())
	}
	return err
}

func (c *Catalog) delete(s Summary) (Removed, error) {
	var done Removed
	for _, n := range s.Names {
		if err := c.untagInto(&done, n, s.Image.ID); err != nil {
			return done, err
		}
	}
	if err := c.docs.DeleteDoc(KindImage, s.Image.ID.Hex()); err != nil {
		return done, fmt.Errorf("image %s: %w", s.Image.ID.Short(), err)
	}
	done.Deleted = s.Image.ID
	return done, nil
}

// check refuses while containers need the image.
func (r Removal) check(id digest.Digest) error {
	if r.Users == nil {
		return nil
	}
	users, err := r.Users(id)
	if err != nil {
		return fmt.Errorf("image %s: %w", id.Short(), err)
	}
	var running, all []string
	for _, u := range users {
		all = append(all, u.Container)
		if u.Running {
			running = append(running, u.Container)
		}
	}
	if len(running) > 0 {
		return &Error{
			Msg: fmt.Sprintf("image %s: running containers use it: %s", id.Short(), strings.Join(running, ", ")),
			Way: "stop and remove them first: whittle rm -f " + strings.Join(running, " "),
		}
	}
	if len(all) > 0 && !r.Force {
		return &Error{
			Msg: fmt.Sprintf("image %s: containers use it: %s", id.Short(), strings.Join(all, ", ")),
			Way: "remove them first: whittle rm " + strings.Join(all, " ") + ", or use --force",
		}
	}
	return nil
}

// lastName reports whether without n the image has no tag left. Names by
// digest do not keep an image, as long as they are of n's repository.
func (s Summary) lastName(n Name) bool {
	for _, other := range s.Names {
		if other == n {
			continue
		}
		if other.Tag != "" || other.Repository() != n.Repository() {
			return false
		}
	}
	return true
}

func (s Summary) repositories() []string {
	var out []string
	for _, n := range s.Names {
		out = append(out, n.FamiliarRepository())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s Summary) familiar() []string {
	var out []string
	for _, n := range s.Names {
		out = append(out, n.Familiar())
	}
	return out
}
