package whittle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
)

// RunRequest says how to make a container. Empty fields are the image's.
type RunRequest struct {
	Image      string
	Args       []string // replaces the image's CMD
	Name       string
	Env        []string // "K=V", or "K" to leave the image's out
	Volumes    []string // "/host:/container[:ro]"
	Mounts     []string // "type=bind,source=/host,target=/container"
	Tmpfs      []string // "/container[:options]"
	Ports      []string // "[ip:]host:container"
	PublishAll bool     // a free port of the host for each that the image exposes
	Hosts      []string // "host:ip" or "host=ip"; "host-gateway" is the host
	Labels     []string // "K=V"
	Dir, User  string
	Hostname   string
	Entrypoint *string // nil: the image's; "" clears it
	Network    string  // "" or "default", "host" or "none"
	Platform   string  // "" is this machine's
	Pull       string  // "", "missing", "always" or "never"
	ShmSize    int64
	StopSignal string
	StopWait   *int // seconds; nil is the default, below 0 is without end
	ReadOnly   bool
	TTY, Stdin bool
	Remove     bool
}

// Containers returns the containers of the store.
func (w *Whittle) Containers() *container.Set {
	return &container.Set{Store: w.store, Roots: w.rootFS(), Now: w.opt.Now}
}

// Create makes a container of an image, which is pulled when the store does
// not have it.
func (w *Whittle) Create(ctx context.Context, req RunRequest, sink progress.Sink) (_ *container.Container, err error) {
	lock, err := w.use(ctx)
	if err != nil {
		return nil, err
	}
	defer join(&err, lock.Close)
	m, err := w.imageToRun(ctx, &req, sink)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.hold(m.ID), w.complete(m), w.gather(ctx, m, sink)); err != nil {
		return nil, err
	}
	spec, err := req.spec(m)
	if err != nil {
		return nil, err
	}
	return w.Containers().Create(container.Container{
		Name: req.Name, Image: m.ID, ImageName: req.Image, Chain: chainOf(m), Spec: *spec,
	})
}

// platformOf reads a platform that was asked for; none is this machine's.
func platformOf(s string) (plan.Platform, error) {
	if s == "" {
		return platform(), nil
	}
	p, err := plan.ParsePlatform(s, platform())
	if err != nil {
		return p, &image.Error{Msg: "--platform " + err.Error(), Way: "for example --platform linux/amd64"}
	}
	return p, nil
}

// ContainerSize is how much a container has written, and how much it is with
// its image.
func (w *Whittle) ContainerSize(c *container.Container) (written, whole int64, err error) {
	if written, err = w.Containers().Written(c); err != nil {
		return 0, 0, err
	}
	if c.Failed != nil { // of no image
		whole = written
		for _, id := range c.Chain {
			whole += w.layerSize(id)
		}
		return written, whole, nil
	}
	m, err := w.catalog.Get(c.Image)
	if err != nil {
		return 0, 0, err
	}
	return written, written + m.Size(), nil
}

// imageToRun finds the request's image, or pulls it.
func (w *Whittle) imageToRun(ctx context.Context, r *RunRequest, sink progress.Sink) (*image.Image, error) {
	want, err := platformOf(r.Platform)
	if err != nil {
		return nil, err
	}
	n, nameErr := image.ParseName(r.Image)
	switch r.Pull {
	case "", "missing", "never":
		m, _, err := w.catalog.Resolve(r.Image)
		if err == nil && r.Platform != "" && (m.Config.OS != want.OS || m.Config.Architecture != want.Arch) {
			return nil, &image.Error{Msg: fmt.Sprintf("%s: the image is for %s/%s, not for %s", r.Image, m.Config.OS, m.Config.Architecture, want),
				Way: "leave --platform out, or run with --pull always --platform " + want.String()}
		}
		if !errors.Is(err, image.ErrNotFound) || r.Pull == "never" || nameErr != nil {
			return m, err
		}
		if m, perr := w.pull(ctx, n, want, false, sink); perr == nil {
			return m, nil
		} else {
			return nil, fmt.Errorf("%w; and it could not be pulled: %w", err, perr)
		}
	case "always":
		if nameErr != nil {
			return nil, nameErr
		}
		return w.pull(ctx, n, want, false, sink)
	}
	return nil, &image.Error{Msg: fmt.Sprintf("--pull %q: unknown", r.Pull), Way: "there are missing, always and never"}
}

// spec applies the request to the image's config.
func (r *RunRequest) spec(m *image.Image) (*container.Spec, error) {
	cfg := m.Config.Config.Clone()
	s := &container.Spec{
		Dir: cfg.WorkingDir, User: cfg.User, Hostname: r.Hostname, Network: r.Network,
		ReadOnly: r.ReadOnly, ShmSize: r.ShmSize, TTY: r.TTY, Stdin: r.Stdin, Remove: r.Remove,
		Stop: cfg.StopSignal, StopWait: r.StopWait,
	}
	if r.Dir != "" {
		s.Dir = r.Dir
	}
	if s.Dir != "" && !path.IsAbs(s.Dir) {
		return nil, &image.Error{Msg: fmt.Sprintf("working directory %q: is not an absolute path", s.Dir), Way: "it is one of the container: -w /" + s.Dir}
	}
	if r.User != "" {
		s.User = r.User
	}
	if r.StopSignal != "" {
		s.Stop = r.StopSignal
	}
	if s.Stop != "" && container.ParseSignal(s.Stop) == 0 {
		return nil, &image.Error{Msg: fmt.Sprintf("stop signal %q: there is no such signal", s.Stop), Way: "choose another one: --stop-signal SIGTERM"}
	}
	if s.Args = r.command(&cfg); len(s.Args) == 0 {
		return nil, &image.Error{Msg: fmt.Sprintf("%s: the image has no command", r.Image), Way: "name one: run " + r.Image + " COMMAND"}
	}
	if _, ok := cfg.Getenv("PATH"); !ok {
		cfg.Setenv("PATH", config.DefaultPath)
	}
	if _, ok := cfg.Getenv("TERM"); r.TTY && !ok {
		cfg.Setenv("TERM", "xterm")
	}
	s.Env = container.Setenv(cfg.Env, r.Env...)
	s.Labels = maps.Clone(cfg.Labels)
	for _, l := range r.Labels {
		k, v, _ := strings.Cut(l, "=")
		if s.Labels == nil {
			s.Labels = map[string]string{}
		}
		s.Labels[k] = v
	}
	return s, errors.Join(r.network(s, &cfg), r.mounts(s), r.hosts(s))
}

// command joins entrypoint and command: another entrypoint drops the image's
// CMD, as it does with docker run.
func (r *RunRequest) command(cfg *config.Config) []string {
	entry, cmd := cfg.Entrypoint, cfg.Cmd
	if r.Entrypoint != nil {
		entry, cmd = nil, nil
		if *r.Entrypoint != "" {
			entry = []string{*r.Entrypoint}
		}
	}
	if len(r.Args) > 0 {
		cmd = r.Args
	}
	return append(slices.Clone(entry), cmd...)
}

// network: a container has the host's network unless ports lead into it; then
// it has one of its own, so that two of them may listen on the same port and
// an unprivileged user on a low one.
func (r *RunRequest) network(s *container.Spec, cfg *config.Config) error {
	for _, p := range r.Ports {
		port, err := container.ParsePort(p)
		if err != nil {
			return err
		}
		s.Ports = append(s.Ports, port)
	}
	if r.PublishAll {
		for _, e := range slices.Sorted(maps.Keys(cfg.ExposedPorts)) {
			if port, err := container.ParsePort(e); err == nil { // others are not tcp
				s.Ports = append(s.Ports, port)
			}
		}
	}
	switch {
	case s.Network == "none" && len(s.Ports) > 0:
		return &image.Error{Msg: "--network none and -p exclude each other", Way: "leave --network out: -p gives the container a network of its own"}
	case s.Network == "host" && len(s.Ports) > 0:
		for _, p := range s.Ports {
			if p.HostPort != p.Container && p.HostPort != 0 {
				return &image.Error{Msg: fmt.Sprintf("--network host and -p %d:%d exclude each other", p.HostPort, p.Container),
					Way: "on the host's network every port is the host's; leave --network out to have it mapped"}
			}
		}
		s.Ports = nil
	case s.Network == "" || s.Network == "default":
		s.Network = "host"
		if len(s.Ports) > 0 {
			s.Network = "private"
		}
	case s.Network == "bridge":
		return &image.Error{Msg: "--network bridge: there is no bridge",
			Way: "leave it out: the network is the host's, or with -p HOST:CONTAINER one of its own; --network none has none at all"}
	case s.Network != "host" && s.Network != "none":
		return &image.Error{Msg: fmt.Sprintf("--network %q: there are host and none", s.Network),
			Way: "use --network host (the default), --network none, or -p HOST:CONTAINER for a network of its own"}
	}
	return nil
}

func (r *RunRequest) mounts(s *container.Spec) error {
	for _, k := range []struct {
		list  []string
		parse func(string) (container.Mount, error)
	}{{r.Volumes, container.ParseVolume}, {r.Mounts, container.ParseMount}, {r.Tmpfs, container.ParseTmpfs}} {
		for _, v := range k.list {
			m, err := k.parse(v)
			if err != nil {
				return err
			}
			if m.Target == "/" {
				return &image.Error{Msg: fmt.Sprintf("mount %q: it would hide all of the image", v), Way: "mount it on a folder of the container, for example /mnt"}
			}
			s.Mounts = append(s.Mounts, m)
		}
	}
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		if seen[m.Target] {
			return &image.Error{Msg: fmt.Sprintf("%s: is mounted twice", m.Target), Way: "leave one of the mounts out"}
		}
		seen[m.Target] = true
	}
	return nil
}

func (r *RunRequest) hosts(s *container.Spec) error {
	for _, h := range r.Hosts {
		name, ip, err := container.ParseHost(h, s.Network)
		if err != nil {
			return err
		}
		s.Hosts = append(s.Hosts, ip+"\t"+name)
	}
	return nil
}

// imageUsers lists the containers made from an image.
func (w *Whittle) imageUsers(id digest.Digest) ([]image.Use, error) {
	list, err := w.Containers().List()
	var out []image.Use
	for _, c := range list {
		if c.Image == id {
			out = append(out, image.Use{Container: c.Name, Running: c.Running})
		}
	}
	return out, err
}

// containerChains lists the layers that containers need.
func (w *Whittle) containerChains() ([]rootfs.Chain, error) {
	list, err := w.Containers().List()
	var out []rootfs.Chain
	for _, c := range list {
		out = append(out, c.Chain)
	}
	return out, err
}
