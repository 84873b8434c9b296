#!/usr/bin/env bash
# Starts the server, checks its OpenAPI document and the clients that are generated from it, and lets schemathesis search for
# responses that the document does not describe.
# tests/openapi.sh [EXAMPLES [SEED]]: the number of cases per operation (default 20), and their seed (default 1).
set -euo pipefail
cd "$(dirname "$0")/.."

examples=${1:-20}
seed=${2:-1}
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

. ./tests/packages.sh
home=target/schemathesis
python_packages "$home" schemathesis==4.32.5

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export MATCHBOOK_JWT_SECRET=0123456789abcdef0123456789abcdef
# Its access log would hide the errors among ten thousand requests.
MATCHBOOK_LOG=info,access=off target/debug/matchbook serve --listen "127.0.0.1:$port" --data "$work/data" >"$work/server.log" 2>&1 &
server=$!
for _ in $(seq 200); do
  python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/ready')" 2>/dev/null && break
  kill -0 "$server" 2>/dev/null || { cat "$work/server.log" >&2; exit 1; }
  sleep 0.1
done

python3 -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:$port/openapi.json').read().decode())" >"$work/openapi.json"
tests/openapi/clients.sh "$work/openapi.json"

# With credentials, so that schemathesis finds operations that do not require them.
token=$(target/debug/matchbook token --tenant schemathesis --user tester --role admin --role service --role auditor --ttl 1h)
partner=$(target/debug/matchbook token --tenant schemathesis --user partner --ttl 1h)

# The jobs of the dictionary in tests/schemathesis.toml, with work in each.
python3 - "http://127.0.0.1:$port" "$token" <<'EOF' >"$home/leases"
import json, sys, urllib.request

url, token = sys.argv[1:]
worker = {"worker_id": "matcher-1", "kinds": ["match_request", "video_analysis"], "max": 12}

def call(method, path, body):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return json.load(urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(body).encode(), headers, method=method)))

for number in range(1, 9):
    job = f"018f0000-0000-7000-8000-{number:012}"
    call("POST", "/jobs", {"job_id": job})
    call("POST", f"/jobs/{job}/products", [{"product_id": "hedge", "images": [{"img_id": "hedge-1"}]}])
    call("POST", f"/jobs/{job}/videos", [{"video_id": "garden", "frame_count": 66}])
    request = {"request_id": "hedge:garden", "product_id": "hedge", "video_id": "garden", "candidates": 66}
    call("POST", f"/jobs/{job}/match-requests", [request])
    call("PUT", f"/jobs/{job}/phase", {"phase": "matching"})
    found = {"match_id": "hedge-1:garden:f012", "img_id": "hedge-1", "frame_id": "f012", "score": 0.87}
    call("POST", f"/jobs/{job}/matches", [{**found, "product_id": "hedge", "video_id": "garden"}])
    call("POST", "/jobs", {"kind": "video_analysis"})
for item in call("POST", "/internal/work/claim", worker)["items"]:
    print(json.dumps(item["lease_id"]))
EOF

# A match between two players.
python3 - "http://127.0.0.1:$port" "$token" "$partner" <<'EOF' >"$home/games"
import json, sys, time, urllib.request

url, *players = sys.argv[1:]

def call(method, path, token, body=None):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = body and json.dumps(body).encode()
    return json.load(urllib.request.urlopen(urllib.request.Request(url + path, body, headers, method=method)))

for token in players:
    call("POST", "/v1/matchmaking/queue", token, {"pool_key": "blitz"})
for _ in range(200):
    found = call("GET", "/v1/matchmaking/matches", players[0])["items"]
    if found:
        print(json.dumps(found[0]["match_id"]))
        break
    time.sleep(0.1)
EOF
[ -s "$home/games" ] || { echo "two queued players were not paired" >&2; exit 1; }

# Challenges to accept, decline and cancel.
python3 - "http://127.0.0.1:$port" "$token" "$partner" <<'EOF' >"$home/challenges"
import json, sys, urllib.request

url, tester, partner = sys.argv[1:]
for token, opponent in [(tester, "partner"), (partner, "tester")] * 8:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"opponent_id": opponent, "pool_key": "blitz", "message": "a rematch?"}).encode()
    request = urllib.request.Request(url + "/v1/matchmaking/challenges", body, headers)
    print(json.dumps(json.load(urllib.request.urlopen(request))["challenge_id"]))
EOF

"$home/venv/bin/st" --config-file tests/schemathesis.toml run "http://127.0.0.1:$port/openapi.json" \
  --header "Authorization: Bearer $token" \
  --max-examples "$examples" --seed "$seed" || { tail -n 50 "$work/server.log" >&2; exit 1; }
kill -0 "$server" || { echo "the server died" >&2; cat "$work/server.log" >&2; exit 1; }
