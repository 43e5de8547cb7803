package main

import (
	"strings"
	"testing"

	"github.com/whittle-build/whittle/conformance/suite"
)

func TestFlagsBecomeThePeersOptions(t *testing.T) {
	tests := map[string]string{
		"":                                        "",
		"--build-arg A=1 --build-arg B":           "--opt build-arg:A=1 --opt build-arg:B=of the client",
		"--build-arg NOWHERE":                     "",
		"--label=k=v --target T":                  "--opt label:k=v --opt target=T",
		"--network host":                          "--allow network.host --opt force-network-mode=host",
		"--network none":                          "--opt force-network-mode=none",
		"--network default":                       "",
		"--shm-size 64m --no-cache":               "--opt shm-size=67108864 --opt no-cache=",
		"--add-host a:1.2.3.4 --add-host b=::1":   "--opt add-hosts=a=1.2.3.4,b=::1",
		"--no-cache-filter a --no-cache-filter b": "--opt no-cache=a,b",
		"--build-context x=docker-image://y":      "--opt context:x=docker-image://y",
		"--build-context x=/dir":                  "--local context-x=/dir --opt context:x=local:context-x",
		"--secret id=a,src=/f --ssh default":      "--secret id=a,src=/f --ssh default",
	}
	for flags, want := range tests {
		c := &suite.Case{Dir: "/case", Context: "/case/context", Args: strings.Fields(flags), Env: []string{"B=of the client"}}
		got, err := translate(c)
		want = strings.TrimSpace(want + " --local context=/case/context --local dockerfile=/case/context")
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s\n got %s, %v\nwant %s", flags, strings.Join(got, " "), err, want)
		}
	}
	for _, flags := range []string{"--nosuch", "--target", "--shm-size x"} {
		if got, err := translate(&suite.Case{Args: strings.Fields(flags)}); err == nil {
			t.Errorf("%s: got %v, want an error", flags, got)
		}
	}
}

func TestTheDockerfileIsSentApart(t *testing.T) {
	c := &suite.Case{Dir: "/case", Context: "/case/context", File: "/case/context/sub/My.Dockerfile"}
	got, err := translate(c)
	want := "--local context=/case/context --local dockerfile=/case/context/sub --opt filename=My.Dockerfile"
	if err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %v, %v\nwant %s", got, err, want)
	}
	c = &suite.Case{Dir: "/case", Context: "http://127.0.0.1:1/a.git", File: "sub/Dockerfile"}
	got, err = translate(c)
	want = "--opt context=http://127.0.0.1:1/a.git --opt filename=sub/Dockerfile"
	if err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %v, %v\nwant %s", got, err, want)
	}
}
