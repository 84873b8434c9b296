#!/usr/bin/env bash
# Measures how often the embedder's vectors find the picture of the same thing by another artist: see tests/embedder/pairs.py.
# tests/embedder.sh [HALF]: the pairs that count, `all` (default), `tuning` or `test`
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh

home=$PWD/target/embedder
python_packages "$home" --require-hashes --no-deps --only-binary :all: -r tests/embedder/requirements.txt
node_packages "$home" tests/embedder

"$home/venv/bin/python" tests/embedder/pairs.py "${EMBEDDER_PROGRAM:-target/debug/matchbook-embedder}" \
  "$home/node/node_modules" "$@"
