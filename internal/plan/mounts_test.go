package plan

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

// lastMounts are the mounts of the last step of a Dockerfile.
func lastMounts(t *testing.T, src string, change func(*Request)) []Mount {
	t.Helper()
	p, err := plan(t, src, change)
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return p.Steps[len(p.Steps)-1].Run.Mounts
}

func TestWhatAMountMeans(t *testing.T) {
	base := Mount{Source: "/", Mode: 0o755}
	with := func(change func(*Mount)) Mount {
		m := base
		change(&m)
		return m
	}
	for src, want := range map[string]Mount{
		"target=/x":                          with(func(m *Mount) { m.Type, m.Target, m.ReadOnly = MountBind, "/x", true }),
		"dst=x/../y,src=a//b,rw":             with(func(m *Mount) { m.Type, m.Target, m.Source = MountBind, "/w/y", "/a/b" }),
		"TYPE=Bind,Destination=/x/,ro=false": with(func(m *Mount) { m.Type, m.Target = MountBind, "/x" }),
		"readwrite=false,target=/x":          with(func(m *Mount) { m.Type, m.Target, m.ReadOnly = MountBind, "/x", true }),
		"type=bind":                          with(func(m *Mount) { m.Type, m.Target, m.ReadOnly = MountBind, "/w", true }),
		`'"target=/a,b"'`:                    with(func(m *Mount) { m.Type, m.Target, m.ReadOnly = MountBind, "/a,b", true }),
		"type=$T,target=$V/x,source=${V}":    with(func(m *Mount) { m.Type, m.Target, m.Source, m.ReadOnly = MountBind, "/v/x", "/v", true }),
		"type=cache,target=/x/":              with(func(m *Mount) { m.Type, m.Target, m.ID, m.Sharing = MountCache, "/x", "/x", SharedCache }),
		"type=cache,target=rel":              with(func(m *Mount) { m.Type, m.Target, m.ID, m.Sharing = MountCache, "/w/rel", "rel", SharedCache }),
		"type=cache,target=/x,id=i,sharing=LOCKED,ro,mode=0700,uid=1": with(func(m *Mount) {
			m.Type, m.Target, m.ID, m.Sharing, m.ReadOnly, m.Owned, m.Mode, m.UID = MountCache, "/x", "i", LockedCache, true, true, 0o700, 1
		}),
		"type=tmpfs,target=/x,size=10m": with(func(m *Mount) { m.Type, m.Target, m.Size = MountTmpfs, "/x", 10<<20 }),
		"type=secret,id=a/b": with(func(m *Mount) {
			m.Type, m.Target, m.ID, m.ReadOnly, m.Mode, m.Source = MountSecret, "/run/secrets/b", "a/b", true, 0o400, ""
		}),
		"type=secret,target=/etc/key,required": with(func(m *Mount) {
			m.Type, m.Target, m.ID, m.ReadOnly, m.Mode, m.Source, m.Required = MountSecret, "/etc/key", "key", true, 0o400, "", true
		}),
		"type=secret,source=s,env=E": with(func(m *Mount) {
			m.Type, m.ID, m.ReadOnly, m.Mode, m.Source, m.Env = MountSecret, "s", true, 0o400, "", "E"
		}),
		"type=secret,id=s,env=E,target=t,gid=7": with(func(m *Mount) {
			m.Type, m.Target, m.ID, m.ReadOnly, m.Mode, m.Source, m.Env, m.Owned, m.GID = MountSecret, "/w/t", "s", true, 0o400, "", "E", true, 7
		}),
		"type=ssh": with(func(m *Mount) {
			m.Type, m.Target, m.ID, m.ReadOnly, m.Mode, m.Source = MountSSH, "/run/buildkit/ssh_agent.0", "default", true, 0o600, ""
		}),
	} {
		got := lastMounts(t, "FROM a\nWORKDIR /w\nENV V=/v T=bind\nRUN --mount="+src+" x", nil)
		if len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("--mount=%s:\ngot  %+v\nwant %+v", src, got, want)
		}
	}
}

func TestTheFirstAgentIsNamedInTheEnvironment(t *testing.T) {
	const two = "RUN --mount=type=tmpfs,target=/t --mount=type=ssh,id=a --mount=type=ssh,target=/b --mount=type=ssh x"
	for src, want := range map[string]string{
		two:                                "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0",
		"ENV SSH_AUTH_SOCK=/own\n" + two:   "SSH_AUTH_SOCK=/own",
		"RUN --mount=type=ssh,target=/b x": "SSH_AUTH_SOCK=/b",
	} {
		p, err := plan(t, "FROM a\n"+src, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := p.Steps[len(p.Steps)-1].Run
		if !slices.Contains(r.Env, want) {
			t.Errorf("%s: %v, want %s", src, r.Env, want)
		}
	}
	list := lastMounts(t, "FROM a\n"+two, nil)
	if got := list[3].Target; got != "/run/buildkit/ssh_agent.2" {
		t.Errorf("the third agent is at %s", got)
	}
	p, err := plan(t, "FROM a\nRUN --mount=type=ssh x\nRUN y", nil)
	if err != nil {
		t.Fatal(err)
	}
	if env := strings.Join(p.Steps[1].Run.Env, " "); strings.Contains(env, "SSH_AUTH_SOCK") {
		t.Errorf("the next step has %s", env)
	}
}

func TestStagesThatOnlyMountsNeedAreBuilt(t *testing.T) {
	p, err := plan(t, `FROM a AS one
RUN 1
FROM a AS two
RUN 2
FROM a AS base
ONBUILD RUN --mount=from=two,target=/t x
FROM base
RUN --mount=from=ONE,target=/x --mount=type=cache,from=img,target=/c x`, nil)
	if err != nil {
		t.Fatal(err)
	}
	last := p.Steps[len(p.Steps)-1]
	if len(p.Stages) != 4 || len(last.Deps) != 2 {
		t.Errorf("%d stages, %d deps", len(p.Stages), len(last.Deps))
	}
	m := last.Run.Mounts
	if m[0].FromStage == nil || m[0].FromStage.Name != "one" || m[0].From.Step != p.Steps[0] || m[1].From.Image == nil || m[1].From.Image.Name != "img" {
		t.Errorf("mounts %+v", m)
	}
	if trigger := p.Steps[2].Run.Mounts; len(trigger) != 1 || trigger[0].FromStage.Name != "two" {
		t.Errorf("the trigger mounts %+v", trigger)
	}
}

func TestMountsInKeys(t *testing.T) {
	same := map[string][2]string{
		"where files are from":   {"target=/x,from=one", "target=/x,from=img"},
		"which part of them":     {"target=/x,source=a", "target=/x,source=b"},
		"the id of a cache":      {"type=cache,target=/x,id=a", "type=cache,target=/x"},
		"how a cache is shared":  {"type=cache,target=/x,sharing=locked", "type=cache,target=/x"},
		"the spelling of a path": {"target=/x/", "dst=/y/../x,ro"},
	}
	key := func(flag string, change func(*Request)) digest.Digest {
		return lastKey(t, "FROM a AS one\nRUN x\nFROM a\nRUN --mount="+flag+" x", change)
	}
	for name, c := range same {
		if key(c[0], nil) != key(c[1], nil) {
			t.Errorf("%s changes the key", name)
		}
	}
	seen := map[digest.Digest]string{}
	for _, flag := range []string{
		"target=/x", "target=/x,rw", "target=/y", "type=tmpfs,target=/x", "type=tmpfs,target=/x,size=1", "type=cache,target=/x", "type=cache,target=/x,ro",
		"type=cache,target=/x,uid=1", "type=cache,target=/x,mode=0755", "type=secret,id=a,target=/x", "type=secret,id=b,target=/x", "type=secret,id=a,env=A",
		"type=secret,id=a,env=B", "type=secret,id=a,target=/x,required", "type=ssh,target=/x", "type=ssh,target=/x,id=a", "type=ssh,target=/x,mode=0666",
	} {
		k := key(flag, nil)
		if seen[k] != "" {
			t.Errorf("%s and %s have the same key", flag, seen[k])
		}
		seen[k] = flag
	}
	for name, change := range map[string]func(*Request){
		"ulimits":  func(r *Request) { r.Limits.Ulimits = []Ulimit{{"nofile", 1, 2}} },
		"shm size": func(r *Request) { r.Limits.ShmSize = 1 },
		"cgroup":   func(r *Request) { r.Limits.CgroupParent = "/x" },
		"hostname": func(r *Request) { r.Args = map[string]string{"BUILDKIT_SANDBOX_HOSTNAME": "x"} },
	} {
		if key("target=/x", nil) == key("target=/x", change) {
			t.Errorf("%s does not change the key", name)
		}
	}
	ns := func(r *Request) { r.Args = map[string]string{"BUILDKIT_CACHE_MOUNT_NS": "x"} }
	if key("type=cache,target=/x", nil) != key("type=cache,target=/x", ns) {
		t.Error("the namespace of caches changes the key")
	}
	if got := lastMounts(t, "FROM a\nRUN --mount=type=cache,target=/x x", ns)[0].ID; got != "x//x" {
		t.Errorf("with a namespace the id is %q", got)
	}
}

func TestMistakesInMounts(t *testing.T) {
	for src, want := range map[string]string{
		"FROM a\nRUN --mount=type=bind,from=b,target=/y x\nFROM a AS b\nFROM a\nCOPY --from=0 / /": `2: cannot mount from stage "b" to "/y", stage needs to be defined before current command`,
		"FROM a AS b\nRUN --mount=from=b,target=/y x":                                              "2: circular dependency detected on stage: b: it mounts files from itself",
		"FROM a\nRUN --mount=from=A:B:C,target=/y x":                                               `2: failed to parse stage name "A:B:C": invalid reference format`,
		"FROM a\nRUN --mount=type=secret,target=/ x":                                               `2: invalid mount target "/"`,
		"FROM a\nRUN --mount=target=${x?no} x":                                                     "2: x: no",
		"FROM a\nRUN --network=host x":                                                             "2: network.host is not allowed",
		"FROM a\nRUN --security=insecure x":                                                        "2: security.insecure is not allowed",
		"FROM a\nRUN --device=x/y=z,required x":                                                    `2: required device "x/y=z" is not registered`,
	} {
		_, err := plan(t, src, nil)
		if err == nil || !strings.Contains(err.Error(), "Dockerfile:"+want) {
			t.Errorf("%s: %v, want %s", src, err, want)
		}
	}
	_, err := plan(t, "FROM a\nRUN --network=host --security=insecure x", func(r *Request) { r.Allow = []string{"network.host", "security.insecure"} })
	if err != nil {
		t.Error(err)
	}
}
