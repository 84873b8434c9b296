#!/usr/bin/env python3
"""Runs the programs that the documents contain against a server: tests/documents.py [PROGRAM] (default: target/debug/matchbook)."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
MARK = "<!-- runs in tests/documents.py -->"
TIMEOUT = 300


def programs(document):
    """The marked programs of a document, with their languages."""
    blocks = re.findall(re.escape(MARK) + r"\n```(\w+)\n(.*?)\n```\n", (ROOT / document).read_text(), re.DOTALL)
    assert blocks, f"{document} has no program with the mark {MARK}"
    return blocks


def run(language, text, folder, **environment):
    """Starts a program of a document."""
    suffix, command = {"python": ("py", [sys.executable, "-u"]), "js": ("mjs", ["node"])}[language]
    file = folder / f"program-{time.monotonic_ns()}.{suffix}"
    file.write_text(text)
    return subprocess.Popen(
        [*command, file], env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


class Server:
    def __init__(self, program, folder):
        self.log = open(folder / "server.log", "w+")
        arguments = ["serve", "--listen", "127.0.0.1:0", "--data", folder / "data"]
        self.process = subprocess.Popen([program, *arguments], stderr=self.log)
        # Reads see what was written before.
        self.position = 0
        self.url = None
        self.url = self.wait_for("the server serves", self.served_url)
        self.wait_for("it is ready", lambda: self.call("GET", "/ready"))

    def served_url(self):
        assert self.process.poll() is None, pathlib.Path(self.log.name).read_text()
        found = re.search(r"the console is at (http://\S+)/", pathlib.Path(self.log.name).read_text())
        return found and found[1]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-Min-Position": str(self.position)}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                answer = json.load(response)
                self.position = max(self.position, answer.get("position") or 0)
                return answer
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{method} {path}: {error.read().decode()}") from error

    @staticmethod
    def wait_for(what, condition):
        start = time.monotonic()
        while time.monotonic() - start < TIMEOUT:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"not in time: {what}")


def output_of(program):
    output, _ = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 0, output
    return output


def check_worker(server, folder):
    [(language, text)] = programs("docs/workers.md")
    worker = run(language, text, folder, MATCHBOOK_URL=server.url, WORKER_ID="documented")
    created = server.call("POST", "/api/v1/analysis", {"url": "https://www.twitch.tv/videos/2041"})
    path = f"/api/v1/analysis/{created['job_id']}"

    def done():
        assert worker.poll() is None, worker.stdout.read()
        analysis = server.call("GET", path)
        return analysis if analysis and analysis["status"] == "completed" else None

    analysis = server.wait_for("the worker completes the analysis", done)
    assert len(analysis["result"]["highlights"]) == 1, analysis
    worker.send_signal(signal.SIGTERM)
    output_of(worker)
    [known] = server.call("GET", "/internal/workers")["items"]
    assert known["presence"] == "stopped", known


def check_streams(server, folder):
    job = server.call("POST", "/jobs", {"name": "followed"})["job_id"]
    server.call("PUT", f"/jobs/{job}/phase", {"phase": "matching"})
    server.call("POST", f"/jobs/{job}/products", [{"product_id": "a", "images": [{"img_id": "a-1"}]}])
    server.call("POST", f"/jobs/{job}/videos", [{"video_id": "v", "frame_count": 4}])
    request = {"request_id": "a:v", "product_id": "a", "video_id": "v", "candidates": 4}
    server.call("POST", f"/jobs/{job}/match-requests", [request])
    followers = [run(*program, folder, MATCHBOOK_URL=server.url, job=job) for program in programs("docs/streams.md")]
    for expected in ["connected", "progress"]:
        lines = [follower.stdout.readline() for follower in followers]
        assert all(line.startswith(expected) for line in lines), lines
    server.call("POST", f"/jobs/{job}/cancel")
    for follower in followers:
        lines = output_of(follower).splitlines()
        assert [line.split()[0] for line in lines[-2:]] == ["cancelled", "stream_ended"], lines


def main():
    program = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/matchbook").resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = Server(program, folder)
        try:
            check_worker(server, folder)
            check_streams(server, folder)
        finally:
            server.process.terminate()
            server.process.wait()
    print("the programs in docs/workers.md and docs/streams.md work")


main()
