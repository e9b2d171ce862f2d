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
step packages, with the race detector
"$go" test -race -shuffle=on -timeout 20m $("$go" list ./... | grep -v '^osm/tests')
step the whole product on the real Exim, and the page in a real browser
export OSM_SHOTS=${OSM_SHOTS:-$PWD/bin/pictures} # of the page, and of what went wrong
"$go" test -shuffle=on -timeout 20m ./tests/...
step fuzzers
tests/fuzz.sh "${FUZZTIME:-10s}"
step done
