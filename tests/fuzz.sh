#!/usr/bin/env bash
# fuzz.sh [TIME]        runs every fuzzer of the tree for the given time each (20s), eight at
#                       a time, and ends with status 1 if one of them found something
# fuzz.sh --build DIR   only builds them; OSM_FUZZERS=DIR has the former use what was built
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
fuzzers=$(git ls-files -z '*_test.go' | xargs -0 grep -oE '^func Fuzz[A-Za-z0-9_]*' |
  sed -E 's|^(.*)/[^/]*:func (Fuzz.*)$|\1 \2|' | sort)
build() {
  mkdir -p "$1"
  cut -d' ' -f1 <<<"$fuzzers" | uniq | while read -r folder; do
    "$go" test -c -vet=off -ldflags=-w -fuzz=. -o "$1/${folder//\//_}.test" "./$folder"
  done
}
if [ "${1:-}" = --build ]; then
  build "$2"
  exit
fi
export FUZZTIME=${1:-20s} ROOT=$PWD BIN=${OSM_FUZZERS:-} CORPUS=$("$go" env GOCACHE)/fuzz/osm LOGS
LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT
if [ -z "$BIN" ]; then
  BIN=$LOGS/bin
  build "$BIN"
fi
one() { # one FOLDER FUZZER
  local log=$LOGS/$2.$RANDOM
  cd "$ROOT/$1"
  if "$BIN/${1//\//_}.test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$FUZZTIME" -test.fuzzminimizetime 10x -test.parallel 1 \
    -test.fuzzcachedir "$CORPUS/$1" >"$log" 2>&1; then
    echo "fuzz: $1 $2 $FUZZTIME: $(grep -o 'execs: [0-9]*' "$log" | tail -1), nothing found"
  elif grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log"; then
    echo "fuzz: $1 $2 $FUZZTIME: stopped in the middle of an input, nothing found"
  else
    echo "fuzz: $1 $2: FAILED"
    tail -30 "$log"
    return 1
  fi
}
export -f one
xargs -P 8 -L 1 bash -c 'one "$0" "$1"' <<<"$fuzzers"
