#!/usr/bin/env bash
# Measures recommendations on real ratings: see tests/recommend/recommend.py.
# tests/recommend.sh [SPLIT [ease]]: `test` (the default), or `validation`, which also compares settings; with `ease` beside EASE as well.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh

home=$PWD/target/recommend
python_packages "$home" --require-hashes --no-deps --only-binary :all: -r tests/recommend/requirements.txt

"$home/venv/bin/python" tests/recommend/recommend.py "${RECOMMEND_PROGRAM:-target/debug/examples/recommend}" "$@"
