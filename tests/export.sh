#!/usr/bin/env bash
# Opens exported vectors with NumPy, FAISS and Qdrant's client: see tests/export/export.py.
# SERVER_PROGRAM: the built program `matchbook`.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh

home=$PWD/target/export
python_packages "$home" --require-hashes --no-deps --only-binary :all: -r tests/export/requirements.txt

"$home/venv/bin/python" tests/export/export.py "${SERVER_PROGRAM:-target/debug/matchbook}" "$@"
