"A real MLflow tracking server on loopback, in front of SQLite or PostgreSQL, and a wire to it that can be cut."
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from mlscale.storage import locked

ROOT = Path(__file__).resolve().parent.parent
# what a server imports and a client does not; the rest is mlflow-skinny of our own environment
MORE = ["flask", "flask-cors", "aiohttp", "graphene", "cryptography", "huey"]


@cache
def packages():
    "A folder with the packages that `mlflow server` needs beyond ours, made once for these versions; skips where that cannot be."
    wanted = (ROOT / "requirements.lock").read_bytes() + " ".join(MORE).encode()
    folder = ROOT / ".mlscale" / "cache" / f"tracking-server-{version('mlflow-skinny')}-{hashlib.sha256(wanted).hexdigest()[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            index = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True).stdout.strip()
            uv, lock = Path(sys.executable).with_name("uv"), ROOT / "requirements.lock"
            words = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", sys.executable, "--target", folder, "--constraint", lock, *MORE]
            try: done = subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, **({"UV_DEFAULT_INDEX": index} if index else {})})
            except (OSError, subprocess.TimeoutExpired) as e: pytest.skip(f"the packages of an MLflow server cannot be installed ({e})")
            if done.returncode: pytest.skip(f"the packages of an MLflow server cannot be installed ({done.stderr.strip()[-300:]})")
            (folder / "complete").touch()
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    "`mlflow server` with one worker, on a port of its own that it keeps when it is started again."
    def __init__(self, folder, store):
        self.folder, self.store, self.port = Path(folder), store, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        env |= {"PYTHONPATH": str(packages()), "PYTHONWARNINGS": "ignore", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        words = ["-m", "mlflow", "server", "--backend-store-uri", self.store, "--no-serve-artifacts", "--default-artifact-root", str(self.folder)]
        words += f"--workers 1 --host 127.0.0.1 --port {self.port}".split()
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen([sys.executable, *words], env=env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 180
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5): return
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(.1)

    def kill(self):
        "kill -9, the worker too."
        with suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


class Wire:
    """A port that passes on what it is sent, and is cut at the k-th request that writes: before the server has seen it, or
    after the server has answered and before the client has heard. It stays cut until `mend`."""
    def __init__(self, to):
        self.to, self.at, self.lost, self.requests, self.is_cut = to, None, "request", 0, False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def cut(self, at, lost): self.at, self.lost, self.requests, self.is_cut = at, lost, 0, False

    def mend(self): self.at, self.is_cut = None, False

    def close(self): self.listener.close()

    def _listen(self):
        with suppress(OSError):
            while True: threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, client):
        with suppress(OSError, ValueError), client, client.makefile("rb") as said:
            while head := self._read_head(said):
                body = said.read(self._length(head))
                writes = not head.startswith(b"GET ")
                self.requests += writes
                hit = writes and self.at is not None and self.requests == self.at
                if self.is_cut or hit and self.lost == "request":
                    self.is_cut = True
                    return
                with socket.create_connection(("127.0.0.1", self.to)) as server, server.makefile("rb") as answered:
                    server.sendall(head + body)
                    head = self._read_head(answered)
                    answer = head + answered.read(self._length(head))
                if hit:
                    self.is_cut = True
                    return
                client.sendall(answer)

    @staticmethod
    def _read_head(file):
        head = b""
        while line := file.readline():
            head += line
            if line == b"\r\n": return head
        return b""

    @staticmethod
    def _length(head):
        sizes = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return sizes[0] if sizes else 0
