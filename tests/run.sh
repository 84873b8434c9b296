#!/usr/bin/env bash
# Checks that ./run survives a kill of the server and of a worker, continues after a restart, and refuses an address in use.
# tests/run.sh [FOLDER]: the folder of the built programs (default: target/debug).
set -euo pipefail
cd "$(dirname "$0")/.."

programs=$(realpath "${1:-target/debug}")
work=$(mktemp -d)
run=
trap '[ -z "$run" ] || kill "$run" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
export RUN_PROGRAMS=$programs MATCHBOOK_LISTEN=127.0.0.1:$(free_port) ARENA_LISTEN=127.0.0.1:$(free_port) SHOP_LISTEN=127.0.0.1:$(free_port)
url=http://$MATCHBOOK_LISTEN

start() {
  ./run "$work/data" >"$work/output" 2>&1 &
  run=$!
}
fail() {
  echo "$*" >&2
  tail -n 40 "$work/output" >&2
  tail -n 5 "$work"/data/*.log >&2
  exit 1
}
# Waits until a command succeeds: until_true WHAT COMMAND...
until_true() {
  local what=$1
  shift
  for _ in $(seq 3000); do
    "$@" >/dev/null 2>&1 && return
    kill -0 "$run" 2>/dev/null || fail "./run ended before: $what"
    sleep 0.1
  done
  fail "not in time: $what"
}
# The process with this text in its command line, which contains this test's folder or address.
process() {
  pgrep -f "^$programs/$1.*($work|$MATCHBOOK_LISTEN)" | head -n 1
}
processed() {
  curl -sf "$url/jobs/$job" | python3 -c 'import json, sys; print(json.load(sys.stdin)["counters"]["candidates_processed"])'
}
has_processed() { [ "$(processed)" -ge "$1" ]; }

start
until_true "the job is created" grep -q '^job=' "$work/data/env"
job=$(sed -n 's/^job="\(.*\)"$/\1/p' "$work/data/env")
until_true "some candidates are processed" has_processed 5

# Another ./run is refused before it opens anything.
if output=$(./run "$work/other" 2>&1); then fail "a second ./run was not refused"; fi
grep -q "listens on $MATCHBOOK_LISTEN" <<<"$output" || fail "it does not name the address in use: $output"
[ ! -e "$work/other" ] || fail "it created its folder"

for program in "matchbook serve" "matchbook-matcher .*matcher-1"; do
  killed=$(process "$program")
  kill -9 "$killed"
  until_true "$program is started again" eval '[ -n "$(process "$program")" ] && [ "$(process "$program")" != "$killed" ]'
  until_true "the server responds" curl -sf "$url/ready"
  before=$(processed)
  until_true "the job continues" has_processed $((before + 5))
done

# Every cutout and the images of the job's products have vectors, so that each product has all cutouts as candidates.
are_embedded() {
  curl -sf "$url/api/v1/matching/products/hedge/candidates?limit=100" |
    python3 -c 'import json, sys; page = json.load(sys.stdin); sys.exit((len(page["items"]), page["vector_count"]) != (54, 2))'
}
until_true "the cutouts are embedded" are_embedded
until_true "the shop is filled" grep -q "the shop is filled: 10000 products" "$work/data/shop.log"
kill "$run"
wait "$run" || fail "it did not stop"
[ -z "$(process matchbook)" ] || fail "a process is left"
start
until_true "the open job continues" grep -q "job $job waits for workers" "$work/output"
until_true "the shop is not filled twice" grep -q "the shop is filled: 10000 products, 0 new interactions" "$work/data/shop.log"
until_true "the job is completed" grep -q "done: 528 of 528 candidates processed, 240 matches found, 240 with an evidence image" "$work/output"

# The commands of README.md work in any folder after the file with the settings of this run was read.
cd "$work"
set -a
. data/env
set +a
[ "$(matchbook jobs show "$job" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["status"])')" = completed ]
awk '/^## A tour/ { tour = 1 } /^## Guarantees/ { tour = 0 } /^```$/ { code = 0 } tour && code; /^```sh$/ { code = 1 }' "$OLDPWD/README.md" |
  sed -E '/^\. run-data/d; s/^(matchbook events tail|curl -sN)(.*)$/{ timeout 2 \1\2\n} || [ $? -eq 124 ]/; s/sleep 15;//' >tour.sh
[ "$(grep -c . tour.sh)" -gt 25 ] || fail "README.md has no tour"
bash -ec 'curl() { command curl -f --retry 6 "$@"; }; . ./tour.sh' >tour.log 2>&1 || { tail -n 20 tour.log >&2; fail "a command of README.md failed"; }
[ "$(head -c 3 evidence.jpg | od -An -tx1)" = " ff d8 ff" ] || fail "the evidence is not a picture"
echo "./run: the server and a worker were killed, and $job was completed after a restart"
