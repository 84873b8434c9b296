#!/usr/bin/env bash
# Compares the estimates of what another ranking would have done with those of the Python package obp, and counts how often their
# intervals hold the truth: see tests/what_if/what_if.py.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh

home=$PWD/target/what_if
python_packages "$home" --require-hashes --no-deps --only-binary :all: -r tests/what_if/requirements.txt

"$home/venv/bin/python" tests/what_if/what_if.py "${WHAT_IF_PROGRAM:-target/debug/examples/what_if}"
