# osm: what can be made here. "make help" lists it.
SHELL := /bin/bash
GO ?= go
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E env PATH="$$PATH")
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: help build deps demo test unit race lint fuzz bench install uninstall man clean

help: ## list what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## compile bin/osmd and bin/osmctl
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/osmd ./cmd/osmctl

deps: ## install with apt what the demo and the tests run on (Exim, PHP, Chromium, …)
	@$(SUDO) tests/deps.sh

demo: build ## run the product on a private Exim with six accounts; DEMO_EXIT=1 ends by itself
	@$(SUDO) tests/deps.sh demo
	@$(GO) build -o bin/demo ./tests/demo
	@$(SUDO) env DEMO_EXIT=$(DEMO_EXIT) bin/demo

test: deps ## everything that must pass: lint, unit and race, real Exim, fuzzers
	@$(SUDO) tests/run.sh

unit: ## the tests that need neither root nor Exim
	$(GO) test ./counters ./policy ./sql ./internal/config ./internal/panel ./internal/webfront ./whm-addon

race: ## all tests with the race detector
	@$(SUDO) $(GO) test -race -shuffle=on ./...

lint: ## gofmt, vet, staticcheck, govulncheck where its database can be reached
	@tests/lint.sh

fuzz: ## each fuzzer for FUZZTIME (default 20s)
	@tests/fuzz.sh $(FUZZTIME)

bench: deps build ## the figures: paired rounds against their anchors, and Go's own benchmarks
	@$(SUDO) tests/bench.sh

install: build ## install on this server: programs, user, Exim's ACL, units
	@$(SUDO) exim-acl/install.sh install

uninstall: ## take out again what install put in
	@$(SUDO) exim-acl/install.sh uninstall

man: build ## write docs/man from the programs' own definitions
	@mkdir -p docs/man
	bin/osmd man >docs/man/osmd.8
	bin/osmctl man osmctl >docs/man/osmctl.8
	bin/osmctl man osm.toml >docs/man/osm.toml.5

clean: ## remove what was built
	rm -rf bin
