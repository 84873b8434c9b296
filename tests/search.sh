#!/usr/bin/env bash
# Compares the search with Tantivy, and measures it on real names and synonyms: see tests/search/search.py.
# tests/search.sh [QUERIES [SPLIT]]: the number of queries of each kind (default 300), and `validation` or `test`.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh

home=$PWD/target/search
python_packages "$home" --require-hashes --no-deps --only-binary :all: -r tests/search/requirements.txt
node_packages "$home" tests/search

"$home/venv/bin/python" tests/search/search.py "${SEARCH_PROGRAM:-target/debug/examples/search}" \
  "$home/node/node_modules/@tabler/icons/icons.json" "$@"
