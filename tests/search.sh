#!/usr/bin/env bash
# Compares the search with Tantivy, and measures it on real names and synonyms: see tests/search/search.py.
# tests/search.sh [QUERIES [SPLIT [ENCODE MODEL]]]: the number of queries of each kind (default 300), `validation` or `test`, and the built
# example `encode` of the crate `encoder` with the folder of a model.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh

home=$PWD/target/search
python_packages "$home" --require-hashes --no-deps --only-binary :all: -r tests/search/requirements.txt
node_packages "$home" tests/search

"$home/venv/bin/python" tests/search/search.py "${SEARCH_PROGRAM:-target/debug/examples/search}" \
  "$home/node/node_modules/@tabler/icons/icons.json" "$@"
