package places

import (
	"strings"
	"testing"
)

// masked is root in a container without a seccomp profile: as in a Kubernetes
// pod that sets none. Parts of /proc are hidden there.
func masked() place {
	return place{disk: true, options: []string{"--security-opt", "seccomp=unconfined"}}
}

func TestAllExamplesAreBuiltWhereProcIsMasked(t *testing.T) {
	built, failed, said := builtIn(t, masked())
	if len(failed) > 0 || len(built) != 9 {
		t.Errorf("not all were built:\n%s", said)
	}
}

func TestAStepWhereProcIsMaskedHasEveryIDAndNothingOutlivesIt(t *testing.T) {
	said := masked().must(t, `
		/src/standins/load busybox 2>/dev/null
		whittle info
		mkdir ctx
		cat > ctx/Dockerfile <<'X'
FROM busybox
RUN touch /x && chown 1000:2000 /x && stat -c 'owner %u:%g' /x; (setsid sleep 987651 &); sleep 987652 &
USER 1234
RUN echo user $(id -u), processes $(ls -d /proc/[0-9]* | wc -l)
X
		whittle build --progress plain ctx
		for p in /proc/[0-9]*; do echo "left $(tr '\0' ' ' < $p/cmdline | head -c 20)"; done`)
	for _, want := range []string{"owner 1000:2000", "user 1234, processes",
		"ids                all (root of a container", "pid namespace      shared (no new /proc"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in:\n%s", want, said)
		}
	}
	if strings.Contains(said, "left sleep") || strings.Contains(said, "left whittle") {
		t.Errorf("something is left:\n%s", said)
	}
}

// Overlayfs takes no folder of another overlay for what a step changes.
func TestAStoreOnAContainersOwnOverlayHasNoMounts(t *testing.T) {
	p := masked()
	p.disk = false
	said := p.must(t, `
		/src/standins/load busybox 2>/dev/null
		whittle info
		mkdir ctx
		printf 'FROM busybox\nRUN echo it runs\n' > ctx/Dockerfile
		whittle build --progress plain ctx`)
	if !strings.Contains(said, "it runs") || !strings.Contains(said, "root file systems  chroot") {
		t.Errorf("said:\n%s", said)
	}
}
