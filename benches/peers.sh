#!/usr/bin/env bash
# Measures Matchbook beside other programs, in one run on one machine. It is not part of `./test`.
# benches/peers.sh feedback|search [ARGUMENT...]: see benches/peers/feedback.py and benches/peers/search.py.
# MATCHBOOK_BIN: the folder of the release programs `matchbook` and `matchbook-bench`, by default target/release.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh

home=$PWD/target/peers
python_packages "$home" --only-binary :all: --no-binary hnswlib -r benches/peers/requirements.txt

what=$1
shift
"$home/venv/bin/python" "benches/peers/$what.py" "${MATCHBOOK_BIN:-target/release}" "$@"
