package whittle

import (
	"context"
	"fmt"

	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/registry"
)

// Registries says how certain registries are reached.
type Registries = registry.Hosts

// Access is the way to registries without a store: who says what to which of them.
type Access struct {
	Credentials []string // files of docker login and podman login; the first is written
	Registries  Registries
	CertDirs    []string
	Say         func(string) // is told what is waited for; may be nil
}

// Login shows a registry a name and a password, and keeps them if it takes them. It
// returns what the registry is called, and where they are kept.
func (a *Access) Login(ctx context.Context, server, user, password string) (domain, where string, err error) {
	if domain, err = registryOf(server); err != nil {
		return "", "", err
	}
	c := registry.Credential{Username: user, Password: password}
	client := registry.Client{Hosts: a.Registries, CertDirs: a.CertDirs, Event: func(e registry.Event) {
		if e.Action == registry.Waiting && a.Say != nil {
			a.Say(e.Err.Error())
		}
	}}
	if err := client.Check(ctx, domain, c); err != nil {
		return domain, "", err
	}
	where, err = registry.Keychain{Files: a.Credentials}.Keep(ctx, domain, c)
	return domain, where, err
}

// Logout forgets what Login kept, and says whether there was anything. left are the files
// of others that have credentials for the registry: they stay.
func (a *Access) Logout(ctx context.Context, server string) (domain string, had bool, left []string, err error) {
	if domain, err = registryOf(server); err != nil {
		return "", false, nil, err
	}
	had, left, err = registry.Keychain{Files: a.Credentials}.Forget(ctx, domain)
	return domain, had, left, err
}

// registryOf reads the name of a registry as docker login takes it: a host, perhaps
// as an address; "" is docker.io.
func registryOf(server string) (string, error) {
	host := registry.Domain(server)
	if host == "" {
		return "docker.io", nil
	}
	n, err := image.ParseName(host + "/name")
	if err != nil || n.Domain != host {
		return "", &hinted{fmt.Errorf("registry %q: is no host", server), "for example registry.example.com or localhost:5000"}
	}
	return n.Domain, nil
}
