#!/usr/bin/env bash
# All that must pass, as root: lint, every package with the race detector, the product on
# the real Exim, then each fuzzer for a short while.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
export CGO_ENABLED=1
step() { printf '\n== %s (%s)\n' "$*" "$(date -u +%T)"; }
step lint
tests/lint.sh
# SQLite is half of what there is to compile, and is compiled anew for each kind of build: here
# with less effort. What lint has vetted is not vetted again.
step packages, with the race detector
CGO_CFLAGS=-O1 "$go" test -race -vet=off -ldflags=-w -shuffle=on -timeout 20m $("$go" list ./... | grep -v '^osm/tests')
step the whole product on the real Exim, and the page in a real browser
export OSM_SHOTS=${OSM_SHOTS:-$PWD/bin/pictures} # of the page, and of what went wrong
OSM_BUILT=$(mktemp -d)
trap 'rm -rf "$OSM_BUILT"' EXIT
chmod 0755 "$OSM_BUILT"
export OSM_BUILT
"$go" build -o "$OSM_BUILT/" ./cmd/osmd ./cmd/osmctl
"$go" test -vet=off -shuffle=on -timeout 20m ./tests/...
step fuzzers
CGO_CFLAGS=-O1 tests/fuzz.sh "${FUZZTIME:-8s}"
step done
