# Targets are described in CONTRIBUTING.md.

GO      ?= go
# docs/ makes nothing another binary: make bench writes there.
VERSION ?= $(shell v=$$(git describe --tags --always 2>/dev/null) && if git diff --quiet HEAD -- . ':!docs'; then echo $$v; else echo $$v-dirty; fi || echo unknown)

# One static binary; no path of this machine in it.
export CGO_ENABLED = 0
# It is small: registries and servers are spoken to in HTTP/1.1 (fetch and
# registry say so too), and what no build waits for is not inlined. Short lists
# of structs are sorted by package sort: slices.SortFunc is 12 KB for each type.
UNHURRIED = google.golang.org/protobuf/... golang.org/x/crypto/... github.com/spf13/... github.com/docker/... github.com/google/... \
	crypto/tls crypto/x509 net/http net/url math/big net encoding/asn1 crypto/internal/fips140/nistec/... vendor/golang.org/x/... . ./cmd/whittle ./internal/container ./internal/fetch ./internal/image/... \
	./internal/sharedcache ./internal/registry ./internal/cachemount ./internal/progress ./internal/sshagent ./internal/address ./internal/config ./internal/dockerfile
# SLIM leaves protobuf out, which nothing here uses: .ci/slim says how.
SLIM  = .cache/slim/go.mod
BUILD = $(GO) build -modfile=$(SLIM) -trimpath -buildvcs=false -tags nethttpomithttp2 $(UNHURRIED:%=-gcflags=%=-l) \
	-ldflags "-s -w -X main.version=$(VERSION)"

export STANDINS_DIR ?= $(CURDIR)/.cache/standins

.PHONY: whittle demo test differential generated record bench bench-quick lint cross docker-link clean

whittle: $(SLIM)
	$(BUILD) -o bin/whittle ./cmd/whittle

demo: whittle
	@.ci/packages demo
	@examples/demo

test: whittle
	@.ci/packages test
	@standins/make
	$(GO) test -timeout 30m ./...

# What whittle makes of the cases is what the peer is recorded to make, and, where
# the peer can run, what is recorded is what it makes.
differential: whittle
	@.ci/packages test
	$(GO) test -count=1 ./conformance/...
	@! .ci/peer-can-run || $(GO) run ./conformance/record -check

# Generated Dockerfiles, SEEDS of them, by the peer and by whittle.
SEEDS ?= 1-200
generated: whittle
	@.ci/packages test
	dir=$$(mktemp -d) && $(GO) run ./conformance/record -seeds $(SEEDS) -to $$dir >$$dir/log && \
		GENERATED=$$dir $(GO) test -count=1 -timeout 5h -run Generated ./conformance && rm -rf $$dir

record:
	$(GO) run ./conformance/record $(ARGS)

# All figures, whittle beside its peers: three to four hours on an idle machine.
# ARGS=-resume goes on with a run that was interrupted, ARGS='-row REGEXP'
# measures some rows again.
bench: whittle
	@.ci/packages bench
	@standins/make busybox golang
	$(GO) run ./bench -docs docs/benchmarks.md -json docs/benchmarks.json $(ARGS)

bench-quick: whittle
	@.ci/packages bench
	@standins/make busybox golang
	$(GO) run ./bench -quick -peers buildkitd -row '$(QUICK)' -against docs/benchmarks-quick.json $(ARGS)

# What is quick to measure, and says the most.
QUICK = ^(noop|run-20|copy-(50k|then)|edit|parallel-sleep|deep)

lint:
	@.ci/lint

$(SLIM): go.mod go.sum .ci/slim $(wildcard internal/dockerfile/*.go)
	.ci/slim

cross: $(SLIM)
	GOARCH=arm64 $(BUILD) -o bin/whittle-linux-arm64 ./cmd/whittle

# With bin first in PATH, scripts that call docker call whittle.
docker-link: whittle
	ln -sf whittle bin/docker

clean:
	rm -rf bin .cache/slim
