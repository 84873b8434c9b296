#!/usr/bin/env bash
# Tests the EventStoreDB protocol with independent clients: Python's kurrentdbclient and Node's @kurrent/kurrentdb-client,
# in the versions of tests/clients/requirements.txt and package-lock.json.
# tests/clients.sh [python|node]...: the clients to run (default both).
set -euo pipefail
cd "$(dirname "$0")/.."

. ./tests/packages.sh
need openssl:openssl

home=$PWD/target/clients
# The list is complete. Without --no-deps, pip looks at newer versions than the pinned ones, and refuses them.
python_packages "$home" --require-hashes --no-deps --only-binary :all: -r tests/clients/requirements.txt
node_packages "$home" tests/clients

# A certificate for the TLS tests and the authority that signs it, for this run only.
tls=$(mktemp -d)
trap 'rm -rf "$tls"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=Matchbook tests" \
  -addext basicConstraints=critical,CA:TRUE -keyout "$tls/ca.key" -out "$tls/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=localhost" \
  -keyout "$tls/server.key" -out "$tls/server.csr" 2>/dev/null
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >"$tls/extensions"
openssl x509 -req -in "$tls/server.csr" -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -CAcreateserial -days 2 \
  -extfile "$tls/extensions" -out "$tls/server.pem" 2>/dev/null
export MATCHBOOK_TEST_TLS=$tls

python() {
  PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests/clients/python "$home/venv/bin/python" \
    -m unittest discover -s tests/clients/python
}

node() {
  command node --test --test-reporter=dot --test-timeout=120000 tests/clients/node/*.test.mjs
}

[ $# -gt 0 ] || set -- python node
pids=()
for each in "$@"; do
  "$each" >"$home/$each.log" 2>&1 &
  pids+=($!)
done
failed=0
for index in "${!pids[@]}"; do
  each=${*:index+1:1}
  if wait "${pids[index]}"; then
    echo "$each: $(tail -n 3 "$home/$each.log" | tr '\n' ' ')"
  else
    failed=1
    cat "$home/$each.log" >&2
  fi
done
exit "$failed"
