#!/usr/bin/env bash
# All that must pass, as root: lint, every package with the race detector, the product on
# the real Exim, then each fuzzer for a short while.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
work=$(mktemp -d)
beside=
trap '[ -z "$beside" ] || kill -- "-$beside" 2>/dev/null || true; rm -rf "$work"' EXIT
chmod 0755 "$work"
# SQLite is half of what there is to compile, and is compiled anew for each kind of build: here
# with less effort.
export CGO_ENABLED=1 CGO_CFLAGS=-O1
export OSM_SHOTS=${OSM_SHOTS:-$PWD/bin/pictures} # of the page, and of what went wrong
export OSM_BUILT=$work/bin                       # the product, for the tests that run it
export OSM_FUZZERS=$work/fuzzers
step() { printf '\n== %s (%s)\n' "$*" "$(date -u +%T)"; }

# At idle priority, in the time that the tests leave while they wait.
idle="chrt --idle 0"
$idle true 2>/dev/null || idle="nice -n 19"
prepare() {
  tests/lint.sh && "$go" build -o "$OSM_BUILT/" ./cmd/osmd ./cmd/osmctl && tests/fuzz.sh --build "$OSM_FUZZERS"
}
export -f prepare
export go
step packages, with the race detector, and beside them lint
set -m # a process group of its own, which is ended with us
$idle bash -euo pipefail -c prepare >"$work/prepare" 2>&1 &
beside=$!
set +m
# Lint has its own look by vet.
"$go" test -race -vet=off -ldflags=-w -shuffle=on -timeout 20m $("$go" list ./... | grep -v '^osm/tests')
step lint
status=0
wait "$beside" || status=$?
beside=
cat "$work/prepare"
[ "$status" = 0 ] || exit "$status"
step the whole product on the real Exim, and the page in a real browser
"$go" test -vet=off -shuffle=on -timeout 20m ./tests/...
step fuzzers
tests/fuzz.sh "${FUZZTIME:-8s}"
step done
