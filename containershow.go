package whittle

import (
	"fmt"
	"time"

	"github.com/whittle-build/whittle/internal/container"
)

// containerDetails is docker's shape of what is known of a container.
type containerDetails struct {
	ID         string `json:"Id"`
	Created    string
	Path       string
	Args       []string
	State      containerState
	Image      string
	Name       string
	Platform   string
	HostConfig containerHost
	Mounts     []containerMount
	Config     containerConfig
	Network    containerNetwork `json:"NetworkSettings"`
}

type containerState struct {
	Status     string
	Running    bool
	Paused     bool // never
	Dead       bool // whittle was killed while it ran
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
}

type containerHost struct {
	NetworkMode    string
	AutoRemove     bool
	ReadonlyRootfs bool
	Binds          []string
	PortBindings   map[string][]hostPort
}

type containerMount struct {
	Type        string // bind, tmpfs or volume
	Source      string
	Destination string
	RW          bool
}

type containerConfig struct {
	Hostname   string
	User       string
	Tty        bool
	OpenStdin  bool
	Env        []string
	Cmd        []string // with the entrypoint
	Image      string
	WorkingDir string
	Labels     map[string]string
	StopSignal string `json:",omitempty"`
}

type containerNetwork struct {
	Ports map[string][]hostPort
}

type hostPort struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

func (w *Whittle) inspectContainer(ref string) (*containerDetails, error) {
	c, err := w.Containers().Find(ref)
	if err != nil {
		return nil, err
	}
	sp := &c.Spec
	d := &containerDetails{ID: c.ID, Created: stamp(c.Created), Path: sp.Args[0], Args: sp.Args[1:],
		Image: c.Image.String(), Name: "/" + c.Name,
		State: containerState{Status: c.State(), Running: c.Running, Dead: c.Killed(), ExitCode: c.ExitCode, Error: c.Error,
			StartedAt: stamp(c.Started), FinishedAt: stamp(c.Finished)},
		HostConfig: containerHost{NetworkMode: sp.Network, AutoRemove: sp.Remove, ReadonlyRootfs: sp.ReadOnly,
			Binds: containerBinds(sp.Mounts), PortBindings: hostPorts(sp.Ports)},
		Mounts: containerMounts(sp.Mounts),
		Config: containerConfig{Hostname: sp.Hostname, User: sp.User, Tty: sp.TTY, OpenStdin: sp.Stdin,
			Env: sp.Env, Cmd: sp.Args, Image: c.ImageName, WorkingDir: sp.Dir, Labels: sp.Labels, StopSignal: sp.Stop},
		Network:  containerNetwork{Ports: hostPorts(c.Bound)},
		Platform: "linux",
	}
	if d.Config.Labels == nil {
		d.Config.Labels = map[string]string{}
	}
	return d, nil
}

func hostPorts(list []container.Port) map[string][]hostPort {
	out := map[string][]hostPort{}
	for _, p := range list {
		key := fmt.Sprintf("%d/tcp", p.Container)
		out[key] = append(out[key], hostPort{p.IP(), fmt.Sprint(p.HostPort)})
	}
	return out
}

// containerBinds are the folders of the host, as -v has them.
func containerBinds(list []container.Mount) []string {
	out := []string{}
	for _, m := range list {
		if m.Own || m.Source == "" {
			continue
		}
		b := m.Source + ":" + m.Target
		if m.ReadOnly {
			b += ":ro"
		}
		out = append(out, b)
	}
	return out
}

func stamp(t time.Time) string { return t.Format(time.RFC3339Nano) }

func containerMounts(list []container.Mount) []containerMount {
	out := []containerMount{}
	for _, m := range list {
		kind := "bind"
		switch {
		case m.Own:
			kind = "volume"
		case m.Source == "":
			kind = "tmpfs"
		}
		out = append(out, containerMount{kind, m.Source, m.Target, !m.ReadOnly})
	}
	return out
}
