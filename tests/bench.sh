#!/usr/bin/env bash
# The figures: paired rounds beside their anchors, then Go's own benchmarks. As root.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
mkdir -p bin
cc -O2 -o bin/load tests/bench/load/load.c -lm -lpthread
cc -O2 -static -o bin/knock tests/bench/knock/knock.c
"$go" build -trimpath -o bin/ ./cmd/osmd ./cmd/osmctl ./tests/bench/echo
"$go" build -o bin/bench ./tests/bench
bin/bench -bin bin "$@"
echo
"$go" test -run '^$' -bench . -benchmem ./counters ./policy ./exim-acl ./sql
"$go" test -run '^$' -bench Pages ./tests/web
