"""A Matchbook server in a temporary folder, and what processes have used."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(url, process):
    """Waits until the address answers with 200."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(url).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit(f"{process.args} ended")


def descendants(pid):
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu(pid):
    """The seconds of CPU that a process and its children have used."""
    ticks = 0
    for one in descendants(pid):
        ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid):
    """The MiB that a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


class Matchbook:
    def __init__(self, programs, *settings):
        self.folder = tempfile.mkdtemp(prefix="peers-")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [f"{programs}/matchbook", "serve", "--log=warn", "--listen", self.url[7:], "--data", self.folder, *settings]
        self.process = subprocess.Popen(command)
        wait_for(f"{self.url}/ready", self.process)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)
