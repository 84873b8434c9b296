#!/usr/bin/env bash
# Starts the server and lets schemathesis look for answers that the OpenAPI document does not describe.
# tests/openapi.sh [EXAMPLES]: how many cases to try for each operation (default 40).
set -euo pipefail
cd "$(dirname "$0")/.."

examples=${1:-40}
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

# A virtual environment of its own, kept beside the build.
venv=target/schemathesis
if ! [ -x "$venv/bin/st" ]; then
  python3 -m venv "$venv" 2>/dev/null || {
    . ./setup.sh
    need python3-venv-is-missing:python3-venv
    python3 -m venv "$venv"
  }
  "$venv/bin/pip" install -q --disable-pip-version-check 'schemathesis==4.32.5'
fi

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export MATCHBOOK_JWT_SECRET=0123456789abcdef0123456789abcdef
target/debug/matchbook serve --listen "127.0.0.1:$port" --data "$work/data" >"$work/server.log" 2>&1 &
server=$!
for _ in $(seq 200); do
  python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/ready')" 2>/dev/null && break
  kill -0 "$server" 2>/dev/null || { cat "$work/server.log" >&2; exit 1; }
  sleep 0.1
done

# With credentials, so that an operation which forgets to ask for them is found.
token=$(target/debug/matchbook token --tenant schemathesis --user tester --role admin --role service --role auditor --ttl 1h)
"$venv/bin/st" --config-file tests/schemathesis.toml run "http://127.0.0.1:$port/openapi.json" \
  --header "Authorization: Bearer $token" \
  --max-examples "$examples" --seed 1 || { tail -n 50 "$work/server.log" >&2; exit 1; }
kill -0 "$server" || { echo "the server died" >&2; cat "$work/server.log" >&2; exit 1; }
