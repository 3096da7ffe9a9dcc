"A PostgreSQL server for the tests, from the system's packages; they are skipped where it is not installed."
import atexit
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psycopg
import pytest

NUMBERS = itertools.count()


def programs():
    "The folder of initdb and postgres: Debian keeps it off the PATH."
    found = [Path(p).resolve().parent for p in [shutil.which("postgres")] if p] + sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    return next((folder for folder in reversed(found) if (folder / "initdb").exists()), None)


def unprivileged():
    "As whom it runs: PostgreSQL refuses to be root."
    if os.geteuid() != 0: return {}
    names = {p.pw_name for p in pwd.getpwall()}
    return {"user": "postgres" if "postgres" in names else "nobody", "extra_groups": []}


class Server:
    "A server in a folder of its own, reached through a socket in it. It writes without waiting for the disk."
    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))   # a short path: a socket's name is at most 107 bytes
        self.user = unprivileged()
        if self.user: shutil.chown(self.folder, self.user["user"])
        self._run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def _run(self, program, *words):
        subprocess.run([programs() / program, *words], cwd=self.folder, check=True, capture_output=True, **self.user)

    def start(self):
        words = ["-D", "data", "-k", self.folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        self.process = subprocess.Popen([programs() / "postgres", *words], cwd=self.folder, stderr=subprocess.DEVNULL, **self.user)
        deadline = time.monotonic() + 30
        while True:
            with suppress(psycopg.OperationalError): return psycopg.connect(self.url("postgres")).close()
            assert time.monotonic() < deadline and self.process.poll() is None, "PostgreSQL did not start"
            time.sleep(.05)

    def stop(self, how="SIGINT"):
        "End it: fast, whoever is connected."
        if self.process.poll() is None: self.process.send_signal(getattr(__import__("signal"), how))
        self.process.wait(30)

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database): return f"postgresql://postgres@/{database}?host={self.folder}"

    def database(self):
        "The URL of a new database, in which texts sort as in English dictionaries unless one says otherwise."
        name = f"log{next(NUMBERS)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
        return self.url(name)


@cache
def server():
    "The server that the tests of this process share; it ends with the process."
    if programs() is None: pytest.skip("not installed: postgres")
    shared = Server()
    atexit.register(shared.remove)
    return shared


def where(engine, folder):
    "A new log's path or URL, for `sqlite` or `postgres`."
    return folder / "log.db" if engine == "sqlite" else server().database()
