package container

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParsePortReadsDockersForms(t *testing.T) {
	tests := map[string]Port{
		"80":                  {Container: 80},
		"80/tcp":              {Container: 80},
		"8080:80":             {HostPort: 8080, Container: 80},
		"0:80":                {Container: 80},
		"127.0.0.1:8080:80":   {Host: "127.0.0.1", HostPort: 8080, Container: 80},
		"127.0.0.1::80":       {Host: "127.0.0.1", Container: 80},
		"[::1]:8080:80/tcp":   {Host: "::1", HostPort: 8080, Container: 80},
		"65535:65535":         {HostPort: 65535, Container: 65535},
		"[2001:db8::1]:80:80": {Host: "2001:db8::1", HostPort: 80, Container: 80},
	}
	for in, want := range tests {
		if got, err := ParsePort(in); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, part := range map[string]string{
		"": "no port number", "x": "no port number", "0": "no port number", "65536:80": "no port number", "80:0": "no port number",
		"-1:80": "ranges", "80/udp": "only tcp", "8000-8010:8000-8010": "ranges", "host:80:80": "is not an address", "1:2:3:4": "is not an address",
		"80:": "no port number",
	} {
		got, err := ParsePort(in)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %+v, %v, want an error about %q", in, got, err, part)
		}
	}
}

func TestPortIsShownAsDockerShowsIt(t *testing.T) {
	for want, p := range map[string]Port{
		"0.0.0.0:8080->80/tcp": {HostPort: 8080, Container: 80},
		"[::1]:8080->80/tcp":   {Host: "::1", HostPort: 8080, Container: 80},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestParseVolumeReadsDockersForms(t *testing.T) {
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]Mount{
		"/src:/dst":          {Source: "/src", Target: "/dst", Make: true},
		"/src:/dst/:ro":      {Source: "/src", Target: "/dst", Make: true, ReadOnly: true},
		"/src:/dst:rw":       {Source: "/src", Target: "/dst", Make: true},
		"/src:/dst:z,ro":     {Source: "/src", Target: "/dst", Make: true, ReadOnly: true},
		"/src:/dst:cached":   {Source: "/src", Target: "/dst", Make: true},
		".:/dst":             {Source: cwd, Target: "/dst", Make: true},
		"./a/b:/dst":         {Source: filepath.Join(cwd, "a/b"), Target: "/dst", Make: true},
		"/data/":             {Target: "/data", Own: true},
		"../x:/dst/../other": {Source: filepath.Join(filepath.Dir(cwd), "x"), Target: "/other", Make: true},
	}
	for in, want := range tests {
		if got, err := ParseVolume(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, part := range map[string]string{
		"": "want HOST:CONTAINER", "data": "want HOST:CONTAINER", "~/a:/dst": "did not replace ~", "data:/dst": "no named volumes", "/src:dst": "does not begin with /",
		"/src:": "want HOST:CONTAINER", ":/dst": "want HOST:CONTAINER", "/a:/b:ro:x": "want HOST:CONTAINER", "/a:/b:nocopy": `option "nocopy" is unknown`,
	} {
		got, err := ParseVolume(in)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %+v, %v, want an error about %q", in, got, err, part)
		}
	}
}

func TestParseMountReadsDockersForms(t *testing.T) {
	tests := map[string]Mount{
		"type=bind,source=/a,target=/b":                 {Source: "/a", Target: "/b"},
		"type=bind,src=/a,dst=/b,readonly":              {Source: "/a", Target: "/b", ReadOnly: true},
		"type=bind,src=/a,destination=/b,ro=false":      {Source: "/a", Target: "/b"},
		`type=bind,"src=/a,b",dst=/b`:                   {Source: "/a,b", Target: "/b"},
		"type=tmpfs,target=/t":                          {Target: "/t"},
		"type=volume,target=/v,readonly":                {Target: "/v", Own: true, ReadOnly: true},
		"target=/v":                                     {Target: "/v", Own: true},
		"type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=70": {Target: "/t", Options: []string{"size=1048576", "mode=70"}},
	}
	for in, want := range tests {
		if got, err := ParseMount(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, part := range map[string]string{
		"": "KEY=VALUE", "source=a,target=/b": "no named volumes", "type=volume,target=/b,tmpfs-size=1": "of type=tmpfs", "type=npipe,target=/b": "type npipe", "type=bind,target=/b": "source is missing",
		"type=bind,source=/a": "target must be", "type=bind,source=/a,target=b": "target must be", "type=tmpfs,source=/a,target=/b": "no source",
		"type=bind,source=/a,target=/b,tmpfs-size=1": "of type=tmpfs", "type=bind,colour=red": `key "colour" is unknown`, `"`: "KEY=VALUE",
	} {
		got, err := ParseMount(in)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %+v, %v, want an error about %q", in, got, err, part)
		}
	}
}

func TestParseTmpfsKeepsWhatAMountTakes(t *testing.T) {
	got, err := ParseTmpfs("/run:rw,noexec,size=64m")
	if err == nil || !strings.Contains(err.Error(), "noexec cannot be chosen") {
		t.Errorf("noexec: got %+v, %v", got, err)
	}
	got, err = ParseTmpfs("/run/:rw,nosuid,size=64m,mode=700,ro")
	want := Mount{Target: "/run", ReadOnly: true, Options: []string{"size=67108864", "mode=700"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, in := range []string{"", "run", "/run:colour=red"} {
		if got, err := ParseTmpfs(in); err == nil {
			t.Errorf("%q: got %+v", in, got)
		}
	}
}

func TestSetenvHasEachNameOnce(t *testing.T) {
	base := []string{"A=1", "B=2"}
	got := Setenv(base, "B=3", "C=", "A", "D", "C=4=5")
	if want := []string{"B=3", "C=4=5"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if base[1] != "B=2" || len(base) != 2 {
		t.Errorf("the base was changed: %q", base)
	}
}

func TestParseEnvFileTakesValuesAsTheyAre(t *testing.T) {
	got, err := ParseEnvFile("f", "\ufeffA=1\r\n# no\n\n  B= x \"y\" #z \nC\nD=a=b")
	if want := []string{"A=1", `B= x "y" #z `, "C", "D=a=b"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for in, want := range map[string]string{"A=1\nB C=2\n": `f:2: "B C"`, "=x": `f:1: ""`, "export A=1": `f:1: "export A"`} {
		if got, err := ParseEnvFile("f", in); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want an error that begins with %s", in, got, err, want)
		}
	}
}

func TestHearsReadsMasks(t *testing.T) {
	status := func(blk, ign, cgt string) string {
		return "Name:\tx\nSigQ:\t0/1\nSigPnd:\t4000\nShdPnd:\t4000\nSigBlk:\t" + blk + "\nSigIgn:\t" + ign + "\nSigCgt:\t" + cgt + "\n"
	}
	const none, term = "0000000000000000", "0000000000004000"
	for name, tt := range map[string]struct {
		status string
		want   hearing
	}{
		"default": {status(none, none, none), no},
		"caught":  {status(none, none, term), yes},
		"ignored": {status(none, term, none), yes},
		"blocked": {status(term, none, none), perhaps},
		"both":    {status(term, none, term), yes},
		"others":  {status("ffffffffffffbfff", "ffffffffffffbfff", "ffffffffffffbfff"), no},
	} {
		if got := hears([]byte(tt.status), unix.SIGTERM); got != tt.want {
			t.Errorf("%s: got %d, want %d", name, got, tt.want)
		}
	}
}

func TestValidNameIsDockers(t *testing.T) {
	for in, want := range map[string]bool{
		"a": true, "A-b_c.1": true, "0x": true, "": false, "-a": false, ".a": false, "a b": false, "a/b": false, "ä": false,
		strings.Repeat("a", maxName): true, strings.Repeat("a", maxName+1): false,
	} {
		if got := validName(in); got != want {
			t.Errorf("%q: got %v", in, got)
		}
	}
	for range 100 {
		if n := randomName(); !validName(n) {
			t.Errorf("random name %q is not valid", n)
		}
	}
}

func TestWithPrefixOfNothingIsNothing(t *testing.T) {
	ids := []string{"abc", "abd", "x"}
	if got := withPrefix(ids, "ab"); len(got) != 2 {
		t.Errorf("ab: %q", got)
	}
	if got := withPrefix(ids, ""); got != nil {
		t.Errorf("the empty prefix: %q", got)
	}
}

func TestParseSignalReadsNamesAndNumbers(t *testing.T) {
	for in, want := range map[string]unix.Signal{
		"SIGTERM": unix.SIGTERM, "TERM": unix.SIGTERM, "term": unix.SIGTERM, "sigterm": unix.SIGTERM, "15": unix.SIGTERM, "KILL": unix.SIGKILL,
		"CLD": unix.SIGCHLD, "IOT": unix.SIGABRT, "POLL": unix.SIGIO, "1": 1, "64": 64,
		"SIGRTMIN": 34, "RTMIN": 34, "rtmin+0": 34, "SIGRTMIN+3": 37, "SIGRTMIN+30": 64, "SIGRTMAX": 64, "RTMAX-1": 63, "SIGRTMAX-30": 34,
		"": 0, "0": 0, "-1": 0, "65": 0, "SIG": 0, "SIGNAL": 0, "TERM ": 0, "SIG15": 0,
		"RTMIN-1": 0, "RTMIN+31": 0, "RTMIN3": 0, "RTMIN+": 0, "RTMIN+-1": 0, "RTMAX+1": 0, "RTMAX-31": 0, "RTMAX--1": 0, "RTMIN+99999999999999999999": 0,
	} {
		if got := ParseSignal(in); got != want {
			t.Errorf("%q: got %d, want %d", in, got, want)
		}
	}
}
