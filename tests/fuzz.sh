#!/usr/bin/env bash
# Runs every fuzzer of the tree, one after the other, for the given time each (20s).
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
time=${1:-20s}
for dir in $(git ls-files '*_test.go' | xargs grep -lE '^func Fuzz' | xargs -n1 dirname | sort -u); do
  for f in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' | sort); do
    echo "fuzz: ./$dir $f for $time"
    "$go" test "./$dir" -run '^$' -fuzz "^$f\$" -fuzztime "$time" | tail -2
  done
done
