# sluice: what is done twice is a target here. `make help` lists them.

# sudo resets PATH and so often loses Go: look where it is usually installed.
GO ?= $(or $(shell command -v go),$(firstword $(wildcard /usr/local/go/bin/go /usr/lib/go/bin/go /snap/bin/go $(HOME)/go/bin/go $(HOME)/sdk/go*/bin/go)))
ifeq ($(GO),)
$(error go is not in PATH nor in the usual places: install Go 1.26 or newer, or say where it is with GO=/path/to/go)
endif
export PATH := $(dir $(GO)):$(PATH)

# The committed BPF objects are made by this compiler; another one makes other bytes.
BPF_CLANG ?= clang-14
BPF_STRIP ?= llvm-strip-14
TOOL       = $(GO) tool -modfile=scripts/tools/go.mod
# Under sudo git refuses a checkout that is not root's, unless it is told.
GIT        = git -c safe.directory='$(CURDIR)'
# What is built depends on the commit alone: the same one gives the same bytes, in any directory and at any time.
VERSION   ?= $(or $(shell $(GIT) describe --tags --always --dirty 2>/dev/null),unknown)
COMMIT    ?= $(or $(shell $(GIT) rev-parse HEAD 2>/dev/null),unknown)
DATE      ?= $(or $(shell TZ=UTC $(GIT) log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null),unknown)
LDFLAGS    = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)
BIN       ?= bin/sluice
GOARCH    ?= $(shell $(GO) env GOARCH)
export GOARCH
PREFIX    ?= /usr
# A version of Debian's begins with a digit; a commit without a tag is before all that have one.
DEBVERSION = $(patsubst v%,%,$(if $(filter v%,$(VERSION)),$(VERSION),$(if $(findstring .,$(VERSION)),$(VERSION),0.0.0~git.$(VERSION))))
# The host's own sluice, built to be asked for what is generated from it.
HOSTBIN    = bin/host/sluice
TESTFLAGS ?=
PKG       ?= ./...
# As the product is built, so is what looks at it: in another way everything that it needs would be compiled once more.
LIKE_IT    = CGO_ENABLED=0 GOFLAGS='$(strip $(GOFLAGS) -trimpath)'
# Those that take longest begin first. BESIDE is what to make meanwhile: they wait for much, and leave processors idle.
LONGEST    = ./cmd/sluice ./scripts/packaging ./bpf ./intercept ./pool ./reset/containerd

.DEFAULT_GOAL := help
.PHONY: help build install uninstall package release image examples reference deps generate drift fmt lint compiled unit kernel test test-vm test-vm-fast test-vm-due vm-guest test-kernels allocs soak demo bench growth fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/sluice, or BIN; GOARCH=arm64 for another processor
	CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o '$(BIN)' ./cmd/sluice

# what is installed besides the binary, as FROM:TO below PREFIX
FILES = scripts/packaging/systemd/sluice.service:lib/systemd/system/sluice.service \
        scripts/packaging/systemd/sluice.sysusers:lib/sysusers.d/sluice.conf \
        scripts/packaging/systemd/sluice.tmpfiles:lib/tmpfiles.d/sluice.conf \
        scripts/packaging/systemd/examples/agents.slice:share/doc/sluice/examples/agents.slice \
        scripts/packaging/systemd/examples/in-agents-slice.conf:share/doc/sluice/examples/in-agents-slice.conf \
        scripts/packaging/systemd/examples/attached.conf:share/doc/sluice/examples/attached.conf \
        scripts/packaging/config.toml:share/doc/sluice/config.toml \
        LICENSE:share/doc/sluice/copyright
COMPLETIONS = bash:share/bash-completion/completions/sluice zsh:share/zsh/vendor-completions/_sluice \
              fish:share/fish/vendor_completions.d/sluice.fish

install: build ## into PREFIX (default /usr) below DESTDIR; a configuration that is there is kept
	@GOARCH= CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -o $(HOSTBIN) ./cmd/sluice
	@install -D -m 755 '$(BIN)' '$(DESTDIR)$(PREFIX)/bin/sluice'
	@for pair in $(FILES); do install -D -m 644 "$${pair%%:*}" "$(DESTDIR)$(PREFIX)/$${pair#*:}"; done
	@[ '$(PREFIX)' = /usr ] || sed -i 's|/usr/bin/sluice|$(PREFIX)/bin/sluice|' '$(DESTDIR)$(PREFIX)/lib/systemd/system/sluice.service'
	@set -e; for pair in $(COMPLETIONS); do to="$(DESTDIR)$(PREFIX)/$${pair#*:}"; install -d -m 755 "$${to%/*}"; \
		$(HOSTBIN) completion "$${pair%%:*}" >"$$to"; chmod 644 "$$to"; done
	@umask 022; $(HOSTBIN) __man '$(DESTDIR)$(PREFIX)/share/man/man1'
	@install -d -m 750 '$(DESTDIR)/etc/sluice'
	@[ -e '$(DESTDIR)/etc/sluice/config.toml' ] || install -m 640 scripts/packaging/config.toml '$(DESTDIR)/etc/sluice/config.toml'

uninstall: ## take away what install put there, but for /etc/sluice and /var/lib/sluice
	@rm -f '$(DESTDIR)$(PREFIX)/bin/sluice'
	@for pair in $(FILES) $(COMPLETIONS); do rm -f "$(DESTDIR)$(PREFIX)/$${pair#*:}"; done
	@rm -f '$(DESTDIR)$(PREFIX)'/share/man/man1/sluice.1 '$(DESTDIR)$(PREFIX)'/share/man/man1/sluice-*.1
	@rm -rf '$(DESTDIR)$(PREFIX)/share/doc/sluice'

# Debian Policy 12.7: a version with a revision is a package of Debian's of something else, one without is a native one.
CHANGELOG  = $(if $(findstring -,$(DEBVERSION)),changelog.Debian.gz,changelog.gz)
DIST ?= dist
package: ## DIST/sluice_VERSION_ARCH.deb; GOARCH=arm64 for another processor
	@rm -rf dist/root-$(GOARCH)
	@$(MAKE) --no-print-directory install BIN=dist/bin/$(GOARCH)/sluice DESTDIR='$(CURDIR)/dist/root-$(GOARCH)' PREFIX=/usr
	@gzip -9n dist/root-$(GOARCH)/usr/share/man/man1/*.1
	@install -D -m 644 scripts/packaging/deb/lintian-overrides dist/root-$(GOARCH)/usr/share/lintian/overrides/sluice
	@printf 'sluice (%s) stable; urgency=medium\n\n  * Built from commit %s.\n\n -- %s  %s\n' '$(DEBVERSION)' '$(COMMIT)' \
		"$$(sed -n 's/^maintainer: //p' scripts/packaging/nfpm.yaml)" "$$(LC_ALL=C date -u -R -d '$(DATE)')" | \
		gzip -9n >dist/root-$(GOARCH)/usr/share/doc/sluice/$(CHANGELOG)
	@chmod 644 dist/root-$(GOARCH)/usr/share/doc/sluice/$(CHANGELOG)
	@mkdir -p '$(DIST)'
	@find dist/root-$(GOARCH) -exec touch -h -d '$(DATE)' {} +
	@GOARCH= $(GO) build -modfile=scripts/tools/go.mod -o bin/host/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm
	@VERSION='$(DEBVERSION)' SOURCE_DATE_EPOCH="$$(date -d '$(DATE)' +%s)" bin/host/nfpm package --config scripts/packaging/nfpm.yaml --packager deb \
		--target '$(DIST)/sluice_$(DEBVERSION)_$(GOARCH).deb'

ARCHES = amd64 arm64
release: ## DIST: packages and archives for every processor, what is in them (SBOM), checksums
	@GOARCH= $(GO) build -modfile=scripts/tools/go.mod -o bin/host/cyclonedx-gomod github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
	@mkdir -p '$(DIST)'
	@set -e; for arch in $(ARCHES); do \
		name=sluice_$(DEBVERSION)_linux_$$arch; stage=dist/archive/$$name; rm -rf $$stage; install -d -m 755 $$stage; \
		$(MAKE) --no-print-directory package GOARCH=$$arch; \
		$(MAKE) --no-print-directory install GOARCH=$$arch BIN=dist/bin/$$arch/sluice DESTDIR="$(CURDIR)/$$stage/root" PREFIX=/usr/local; \
		install -m 755 scripts/install.sh $$stage/; install -m 644 README.md LICENSE $$stage/; \
		tar -C dist/archive --sort=name --owner=0 --group=0 --numeric-owner --mtime='$(DATE)' -c $$name | gzip -9n >"$(DIST)/$$name.tar.gz"; \
		bin/host/cyclonedx-gomod bin -json -noserial -notimestamp -version '$(VERSION)' -output "$(DIST)/$$name.cdx.json" dist/bin/$$arch/sluice 2>/dev/null; \
	done
	@cd '$(DIST)' && sha256sum sluice_$(DEBVERSION)_* >SHA256SUMS

image: ## sluice:latest, an image of Docker's with nothing but sluice in it; IMAGE for another name
	@$(MAKE) --no-print-directory build BIN=dist/image/sluice
	@cp scripts/examples/Dockerfile dist/image/
	@docker build -q -t '$(or $(IMAGE),sluice:latest)' dist/image

examples: ## hold the examples for Compose and Kubernetes to their schemas
	@cd scripts/examples && $(LIKE_IT) $(GO) test ./...

reference: ## write docs/reference and the help texts of the tests anew
	@SLUICE_UPDATE=1 $(GO) test -run '^(TestReference|TestHelpGolden)$$' ./cmd/sluice

deps: ## install what tests, demo and bench need (Debian, Ubuntu; as root)
	./scripts/deps.sh

generate: ## rebuild what is generated: BPF objects, REST server and client
	$(LIKE_IT) BPF2GO_CC=$(BPF_CLANG) BPF2GO_STRIP=$(BPF_STRIP) $(GO) generate ./...

drift: generate ## fail if generated files differ from the committed ones
	@git diff --exit-code --stat -- '*_bpfel.go' '*_bpfeb.go' '*_bpfel.o' '*_bpfeb.o' '*.gen.go' || \
		{ echo "drift: generated files do not match their sources: run 'make generate' and commit the result" >&2; exit 1; }

fmt: ## format Go and C
	@$(TOOL) gofumpt -w $(shell git ls-files '*.go' | grep -v -E '_bpfe[lb]\.go$$|\.gen\.go$$')
	@clang-format-14 -i $(shell git ls-files 'bpf/*.c' 'bpf/*.h')

lint: ## vet, staticcheck, gofumpt, clang-format, shell syntax
	$(LIKE_IT) ./scripts/lint.sh

compiled: ## compile for the race detector what the tests are made of
	$(GO) build -race ./...

unit: ## tests that need no root
	$(GO) test -race $(TESTFLAGS) $(PKG)

# vet is lint's: here it would look at all that the tests need once more, in the form that the race detector is given.
kernel: ## all tests, those on the kernel required (as root)
	@[ "$$(id -u)" = 0 ] || { echo "make kernel: the tests attach BPF programs and make network namespaces: run it with sudo" >&2; exit 1; }
	SLUICE_KERNEL_TESTS=require $(GO) test -race -vet=off -timeout 30m $(TESTFLAGS) $(if $(filter ./...,$(PKG)),$(LONGEST)) $(PKG)

test: ## everything: dependencies, lint, generated files, every test (as root)
	@[ "$$(id -u)" = 0 ] || { echo "make test: the tests attach BPF programs and make network namespaces: run 'sudo make test'" >&2; exit 1; }
	./scripts/deps.sh
	$(MAKE) --no-print-directory -j2 lint compiled
	$(MAKE) --no-print-directory drift
	$(MAKE) --no-print-directory $(if $(BESIDE),-j2) kernel $(BESIDE)
	$(MAKE) --no-print-directory allocs
	$(MAKE) --no-print-directory examples

VMFLAGS ?=
define vm
	@[ "$$(id -u)" = 0 ] || { echo "make $@: it makes the guest's root directory: run 'sudo make $@'" >&2; exit 1; }
	@$(2) ./scripts/deps.sh --vm
	@$(LIKE_IT) $(2) $(GO) run ./scripts/vm $(1) $(VMFLAGS)
endef

test-vm: ## the whole product in a guest of Vagrant's and libvirt's: real systemd, cgroup v2 alone, Linux 6.1 (as root)
	$(call vm,vagrant)

test-vm-fast: ## the same in plain qemu; VMFLAGS=-changed for those that did not pass yet (as root)
	$(call vm,fast)

test-vm-due: ## one of the two, or none: Vagrant's if scripts/vm or packaging changed since it passed here, else qemu's if sluice did (as root)
	$(call vm,due)

vm-guest: ## only make what those three start and have cached, at the lowest priority (as root)
	$(call vm,prepare,nice -n 19)

test-kernels: ## the kernel side on the oldest and the newest kernels that Debian has (as root)
	$(call vm,kernels)

allocs: ## fail if the request path allocates more than it did (not under the race detector, which adds its own; as root)
	SLUICE_KERNEL_TESTS=require $(LIKE_IT) $(GO) test -count=1 -run Alloc ./bpf ./intercept/exchange ./intercept/sniff ./pool

soak: ## pools of every preset run out at random while daemons are killed, for SOAK (default 10m; as root); then connects and cut answers in full
	SLUICE_KERNEL_TESTS=require SLUICE_SOAK=$(or $(SOAK),10m) $(GO) test -race -count 1 -timeout 3h -v -run '^TestSoak$$' ./cmd/sluice ./monitor
	SLUICE_KERNEL_TESTS=require SLUICE_SOAK=$(or $(SOAK),10m) $(GO) test -count 1 -timeout 3h -v -p 1 -run '^(TestManyConnections|TestRestartsLoseNothing|TestAnswer.*AtEveryOffset|TestSlowCrowds|TestOpenStreams|TestVanishedPeers|TestMemoryPressure)$$' ./bpf ./intercept/exchange ./cmd/sluice

demo: ## see it work: two keys, one running out, then both, then recovery (as root)
	@[ "$$(id -u)" = 0 ] || { echo "make demo: it attaches BPF programs and makes network namespaces: run 'sudo make demo'" >&2; exit 1; }
	@./scripts/deps.sh --demo
	@$(LIKE_IT) $(GO) run ./scripts/demo

bench: ## sluice beside nginx, HAProxy, net/http and mitmproxy; writes the pages. BENCH=small,streams: only those (as root)
	@[ "$$(id -u)" = 0 ] || { echo "make bench: it attaches BPF programs and makes network namespaces: run 'sudo make bench'" >&2; exit 1; }
	@./scripts/deps.sh --bench
	@$(GO) run ./scripts/bench $(if $(BENCH),-work '$(BENCH)',-write .) $(BENCHFLAGS)

growth: ## cost of a request with ten to a million times as much there; writes docs/growth.svg (as root)
	@$(GO) run ./scripts/bench/growth -write .

fuzz: ## every fuzz target for FUZZTIME each (default 20s)
	./scripts/fuzz.sh $(FUZZTIME)

clean: ## remove what was built
	rm -rf bin dist
