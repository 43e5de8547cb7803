package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Attack 03: a step of one build keeps swapping a part of a cache for a link to
// the machine's files, while steps of other builds, other processes, mount that
// part. No one of them sees what the link names.
func TestAttack03_APartThatAnotherBuildSwapsLeadsNowhere(t *testing.T) {
	l := newLab(t, t.TempDir(), "busybox")
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "canary"), []byte("it was "+"outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := folder(t, map[string]string{"Dockerfile": `FROM busybox AS swaps
ARG OUT
RUN --mount=type=cache,target=/c mkdir -p /c/sub && echo inside >/c/sub/canary && ln -sfn $OUT /c/link && touch /c/begun && \
    n=0; while [ ! -e /c/end ] && [ $n -lt 200000 ]; do n=$((n+1)); mv /c/sub /c/t && mv /c/link /c/sub && mv /c/sub /c/link && mv /c/t /c/sub; done
FROM busybox AS reads
ARG N
RUN --mount=type=cache,target=/m,id=/c,source=sub echo read $N: it was $(cat /m/canary)
FROM busybox AS ready
RUN --mount=type=cache,target=/c n=0; while [ ! -e /c/begun ] && [ $n -lt 400 ]; do n=$((n+1)); sleep 0.05; done; [ -e /c/begun ]
FROM busybox AS end
RUN --mount=type=cache,target=/c touch /c/end
`})
	swaps := l.command("build", "-q", "--target", "swaps", "--build-arg", "OUT="+outside, dir)
	if err := swaps.Start(); err != nil {
		t.Fatal(err)
	}
	l.run("build", "-q", "--target", "ready", dir)
	inside, refused := 0, 0
	for n := range 40 {
		cmd := l.command("build", "--progress", "plain", "--target", "reads", "--build-arg", "N="+strings.Repeat("x", n), dir)
		said, err := cmd.CombinedOutput()
		switch {
		case bytes.Contains(said, []byte("it was outside")):
			t.Fatalf("round %d: a step read a file of the machine:\n%s", n, said)
		case err == nil:
			inside++
		case bytes.Contains(said, []byte("mount /m: source sub: ")):
			refused++
		default:
			t.Fatalf("round %d: %v\n%s", n, err, said)
		}
	}
	l.run("build", "-q", "--target", "end", dir)
	if err := swaps.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d were mounted, %d refused", inside, refused)
	if inside == 0 || refused == 0 {
		t.Logf("the swap was never in time: this run proves little")
	}
}
