package generate

import (
	"reflect"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

const many = 2000

func TestASeedGivesOneBuild(t *testing.T) {
	for seed := range uint64(50) {
		if a, b := New(seed), New(seed); !reflect.DeepEqual(a, b) {
			t.Errorf("seed %d gives\n%s\nand\n%s", seed, a.Dockerfile, b.Dockerfile)
		}
	}
}

// TestMostAreDockerfiles: what does not even parse tests the parser's errors
// only; a few of those do no harm.
func TestMostAreDockerfiles(t *testing.T) {
	wrong := 0
	for seed := range uint64(many) {
		b := New(seed)
		if _, err := dockerfile.Parse("Dockerfile", []byte(b.Dockerfile)); err != nil {
			wrong++
			t.Logf("seed %d: %v", seed, err)
		}
	}
	if wrong > many/50 {
		t.Errorf("%d of %d are no Dockerfiles", wrong, many)
	}
}

// TestEveryInstructionComes: a kind that is never generated is never compared.
func TestEveryInstructionComes(t *testing.T) {
	var all strings.Builder
	for seed := range uint64(many) {
		all.WriteString(New(seed).Dockerfile)
	}
	for _, want := range []string{
		"ADD ", "ARG ", "CMD ", "COPY ", "ENTRYPOINT ", "ENV ", "EXPOSE ", "FROM ", "HEALTHCHECK ", "LABEL ", "MAINTAINER ", "ONBUILD ",
		"RUN ", "SHELL ", "STOPSIGNAL ", "USER ", "VOLUME ", "WORKDIR ", "--chown=", "--chmod=", "--link", "--parents", "--exclude=",
		"--from=0", "--mount=type=cache", "--mount=type=bind", "--mount=type=tmpfs", "--mount=type=secret", "--network=none", "<<-", "RUN <<EOF\n#!",
		"${A//", "${B%%", "${C##", "${A:+",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q in none of %d", want, many)
		}
	}
}
