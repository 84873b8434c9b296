#!/usr/bin/env python3
"""Compares `POST /api/v1/feedback` with FastAPI, asyncpg and PostgreSQL doing one INSERT, with the same client in turns.

feedback.py PROGRAMS [ROUNDS [SECONDS]]: the folder of `matchbook` and `matchbook-bench`. Both servers confirm what is on disk. The
peer has a process for each core.
"""

import json
import os
import statistics
import subprocess
import sys

from postgres import Postgres
from server import Matchbook, cpu, free_port, wait_for

programs, *rest = sys.argv[1:]
rounds = int(rest[0]) if rest else 3
seconds = int(rest[1]) if len(rest) > 1 else 10


def measure(name, url, pids):
    before = sum(map(cpu, pids))
    command = [f"{programs}/matchbook-bench", "--json", "feedback", "--url", url, "--duration", f"{seconds}s"]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    measured["cpu_us"] = (sum(map(cpu, pids)) - before) * 1e6 / measured["requests"]
    figures = ", ".join(f"{key} {measured[key]:.1f}" for key in ["per_second", "p50_ms", "p95_ms", "p99_ms", "cpu_us"])
    print(f"{name}: {figures}, {measured['failures']} failures", flush=True)
    return measured


postgres = Postgres(free_port(), max_connections=100)
with postgres.connect() as connection:
    connection.execute(
        "CREATE TABLE interactions (id bigserial PRIMARY KEY, user_id text NOT NULL, product_id bigint NOT NULL, "
        "interaction_type text NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now())"
    )
port = free_port()
uvicorn = [sys.executable, "-m", "uvicorn", "insert_app:app", "--port", str(port), "--log-level", "warning", "--no-access-log"]
environment = {**os.environ, "DATABASE_URL": postgres.url}
workers = ["--workers", str(os.cpu_count())]
app = subprocess.Popen([*uvicorn, *workers], cwd=os.path.dirname(os.path.abspath(__file__)), env=environment)
wait_for(f"http://127.0.0.1:{port}/ready", app)
matchbook = Matchbook(programs)

ours, theirs = [], []
for _ in range(rounds):
    theirs.append(measure("FastAPI, asyncpg, PostgreSQL", f"http://127.0.0.1:{port}", [app.pid, postgres.process.pid]))
    ours.append(measure("Matchbook", matchbook.url, [matchbook.process.pid]))

for key in ["per_second", "cpu_us"]:
    ratios = [one[key] / other[key] for one, other in zip(ours, theirs)]
    print(f"{key}: {statistics.median(ratios):.2f} times the peer's [{min(ratios):.2f} to {max(ratios):.2f}]")
app.terminate()
app.wait()
matchbook.stop()
postgres.stop()
