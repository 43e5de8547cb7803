package places

import (
	"strings"
	"testing"
)

// oneID is a user of a container without subordinate ids, and without a
// program that could give them: as in a Kubernetes pod that runs as a user and
// sets no seccomp profile.
func oneID() place {
	return place{disk: true, owner: 1000, options: []string{
		"--user", "1000", "--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges",
	}}
}

// owners is a Dockerfile whose files belong to many, and that changes some.
const owners = `
cat > D <<'X'
FROM busybox AS base
COPY --chown=33:44 etc /srv/
COPY --chown=55:66 etc/hosts /srv/linked/
WORKDIR /srv
FROM base AS changed
RUN echo more >> /srv/hosts && echo new > /srv/new && chmod 600 /srv/linked/hosts && rm /srv/group && echo again > /srv/group
FROM base AS last
COPY --from=changed /srv /copy
COPY --from=changed --chown=77 /srv/new /copy/chowned
X
mkdir -p ctx/etc
cp /etc/hosts ctx/etc/
echo g > ctx/etc/group
echo same > ctx/etc/same
whittle build -q -f D --target changed -t left ctx
whittle save left -o left.tar
whittle build -q -f D -t last ctx
whittle save last -o last.tar
`

// listed prints the owners of all files that an archive's layers have in /srv.
const listed = `
echo; echo ==
for a in left last; do
	for l in $(tar xOf $a.tar manifest.json | grep -o 'blobs/sha256/[0-9a-f]*' | sort -u); do
		tar xOf $a.tar $l > l.tar
		tar tvf l.tar --numeric-owner 2>/dev/null | grep -E 'srv|copy' | awk '{ print $2, $NF }' || true
	done | sort | sed "s/^/$a /"
done`

// powerless is a user in a container as docker run makes it by default, but for
// the user: it makes no namespaces, mounts nothing and has one id.
func powerless() place {
	return place{disk: true, owner: 1000, options: []string{"--user", "1000", "--security-opt", "no-new-privileges"}}
}

func TestAUserWithOneIDBuildsAllExamples(t *testing.T) {
	built, failed, said := builtIn(t, oneID())
	if len(failed) > 0 || len(built) != 9 {
		t.Errorf("not all were built:\n%s", said)
	}
}

func TestAStepThatNeedsAnotherIDSaysWhatToInstall(t *testing.T) {
	p := oneID()
	p.options = p.options[:len(p.options)-2] // new privileges are allowed: only the program and the ids are missing
	said := p.must(t, `
		/src/standins/load busybox debian 2>/dev/null
		whittle info
		printf 'FROM debian\nRUN apt-get -o APT::Sandbox::User=_apt update\n' | whittle build - && exit 1
		printf 'FROM busybox\nRUN touch /x && chown 1000 /x\n' | whittle build - && exit 1
		printf 'FROM busybox\nUSER 1000\nRUN true\n' | whittle build - && exit 1
		exit 0`)
	hints := 0
	for line := range strings.Lines(said) {
		if strings.Contains(line, "hint: ") && strings.Contains(line, "apt-get install uidmap") && strings.Contains(line, "1000:100000:65536 in /etc/subuid") {
			hints++
		}
	}
	if hints != 3 || !strings.Contains(said, "user 1000:0: this user namespace has no such id") {
		t.Errorf("%d hints:\n%s", hints, said)
	}
	if !strings.Contains(said, "ids                one (/etc/subuid: no range of ids for user 1000") {
		t.Errorf("whittle info does not say so:\n%s", said)
	}
}

func TestWithoutAnyRightsBuildsWithoutRUNWork(t *testing.T) {
	said := powerless().must(t, `
		/src/standins/load busybox 2>/dev/null
		whittle info
		mkdir -p ctx/etc
		cp /etc/hosts ctx/etc/
		cat > ctx/Dockerfile <<'X'
FROM busybox AS base
COPY --chown=33:44 etc /srv/
WORKDIR /work
FROM busybox
COPY --from=base /srv /copy/
COPY --from=base /bin/busybox /copy/
ENV A=1
X
		whittle build -t built ctx
		whittle save built -o built.tar
		for l in $(tar xOf built.tar manifest.json | grep -o 'blobs/sha256/[0-9a-f]*' | sort -u); do
			tar xOf built.tar $l | tar tv 2>/dev/null | grep copy || true
		done
		printf 'FROM busybox\nRUN touch /tmp/ran\nRUN false\n' | whittle build --progress plain - || echo exit code $?
		whittle fsck`)
	for _, want := range []string{
		"copy/hosts", "copy/busybox", "exit code 1",
		"isolation          none: no RUN (user namespace: the kernel does not let this user make one)",
		"a RUN cannot run here", "--security-opt seccomp=unconfined (Docker)", "seccompProfile.type: Unconfined (Kubernetes)",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in:\n%s", want, said)
		}
	}
	if strings.Contains(said, "RUN touch /tmp/ran\n#") || strings.Count(said, "a RUN cannot run here") != 1 {
		t.Errorf("something was started, or said twice:\n%s", said)
	}
}

func TestWithoutAnyRightsTheExamplesWithoutRUNAreBuilt(t *testing.T) {
	built, failed, said := builtIn(t, powerless())
	if strings.Join(built, ", ") != "1-http-service Dockerfile.nginx-conf" || strings.Count(said, "a RUN cannot run here") != len(failed) {
		t.Errorf("want the one without RUN:\n%s", said)
	}
}

func TestOwnersThatTheKernelCannotHoldAreRecorded(t *testing.T) {
	// What root makes of it, with all ids there are, is what it shall be.
	want := place{disk: true, options: []string{"--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"}}.must(t, "/src/standins/load busybox 2>/dev/null;"+owners+listed)
	if !strings.Contains(want, "33/44 srv/hosts") || !strings.Contains(want, "55/66 srv/linked/hosts") || !strings.Contains(want, "0/0 srv/group") {
		t.Fatalf("the test shows nothing: %s", want)
	}
	got := oneID().must(t, "/src/standins/load busybox 2>/dev/null;"+owners+listed)
	want, got = afterDigest(want), afterDigest(got)
	if got != want {
		t.Errorf("with one id:\n%s\nas root:\n%s", got, want)
	}
}

// afterDigest leaves out the image's id, which times are part of.
func afterDigest(said string) string {
	_, rest, _ := strings.Cut(said, "\n==\n")
	return rest
}
