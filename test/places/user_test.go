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
