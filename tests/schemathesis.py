"""Additions to schemathesis for this API; loaded by tests/schemathesis.toml."""

import schemathesis

# Long polls are tested with a short wait.
WAIT_MAX_MS = 20


@schemathesis.hook
def before_call(_context, case, _kwargs):
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("wait_ms"), int) and WAIT_MAX_MS < body["wait_ms"] <= 30_000:
        case.body = {**body, "wait_ms": WAIT_MAX_MS}
