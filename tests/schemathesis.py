"""Additions to schemathesis for this API; loaded by tests/schemathesis.toml."""

import json

import schemathesis

# Long polls are tested with a short wait.
WAIT_MAX_MS = 20


@schemathesis.serializer("application/x-ndjson")
def write_lines(_context, value):
    """One value per line; the document describes one line."""
    if isinstance(value, bytes):
        return value
    return json.dumps(value).encode() + b"\n"


@schemathesis.hook
def before_call(_context, case, _kwargs):
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("wait_ms"), int) and WAIT_MAX_MS < body["wait_ms"] <= 30_000:
        case.body = {**body, "wait_ms": WAIT_MAX_MS}
