#!/usr/bin/env bash
# All that must pass, as root: lint, every test with the race detector and in a shuffled
# order (the real Exim among them), then each fuzzer for a short while.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
export CGO_ENABLED=1
step() { printf '\n== %s (%s)\n' "$*" "$(date -u +%T)"; }
step lint
tests/lint.sh
step tests with the race detector
"$go" test -race -shuffle=on -timeout 10m ./...
step fuzzers
tests/fuzz.sh "${FUZZTIME:-20s}"
step done
