"""The built program, started on free ports with a data folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "target" / "debug" / "matchbook"

# A generous timeout for operations that take milliseconds on an idle machine.
TIMEOUT = 60


class Server:
    """A running `matchbook serve`. `close` removes its folder."""

    def __init__(self, *arguments, scheme="kurrentdb://", options="?tls=false"):
        self.folder = Path(tempfile.mkdtemp(prefix="matchbook-clients-"))
        self.http, self.port = free_ports(2)
        self.url = f"{scheme}127.0.0.1:{self.port}{options}"
        self.command = [
            str(PROGRAM),
            "serve",
            f"--listen=127.0.0.1:{self.http}",
            f"--esdb-listen=127.0.0.1:{self.port}",
            f"--data={self.folder / 'data'}",
            *arguments,
        ]
        self.start()

    def start(self):
        # The tests share the disk with other programs.
        settings = {"MATCHBOOK_RESERVE_BYTES": "1000000", "MATCHBOOK_SEGMENT_BYTES": "8000000"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until("the server is ready", self.is_ready)

    def is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{self.log()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/ready", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self):
        """Sends SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TIMEOUT)

    def terminate(self):
        """Sends SIGTERM, and returns the exit code."""
        self.process.terminate()
        return self.process.wait(TIMEOUT)

    def log(self):
        return (self.folder / "server.log").read_text(errors="replace")

    def close(self):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder)


def free_ports(count):
    """Finds free ports. No other program on this machine requests them by number."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def until(what, condition):
    """Waits until a condition holds."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"timeout waiting until {what}")
        time.sleep(0.01)
