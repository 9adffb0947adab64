"""The fake as a process of its own: started, killed and started again by tests."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ROOT = Path(__file__).parents[3]


class GcsServer:
    """A Google Cloud Storage server on 127.0.0.1 that keeps everything below `folder`.

    With `private=True` every request needs a token, which the owner of `service_account_key()` can get. With `interval` another
    change of an object less than so many seconds after the last is answered with 429. The process ends with the one that has
    started it, however that ends.
    """

    def __init__(self, folder: Path, *, private: bool = False, interval: float = 0) -> None:
        self.folder = folder
        self._interval = interval
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self._key: rsa.RSAPrivateKey | None = rsa.generate_private_key(65537, 2048) if private else None

    @property
    def endpoint(self) -> str:
        """What `client_options={"api_endpoint": ...}` or STORAGE_EMULATOR_HOST takes. It stays the same after a restart."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written to standard error: nothing, unless it is broken."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Start it, with all that it had when it ended, and wait until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.services.gcs", str(self.folder)]
        command += [f"--port={self.port}", f"--interval={self._interval}"]
        if self._key is not None:
            public = self.folder / "key.pem"
            form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            public.write_bytes(self._key.public_key().public_bytes(*form))
            command.append(f"--key={public}")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            raise RuntimeError(f"the server did not start:\n{self.log}")
        self.port = int(line)

    def kill(self) -> None:
        """End it at once (SIGKILL). Nothing that it has answered is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def create_bucket(self, name: str | None = None, **fields: Any) -> str:
        """A new bucket, of a name of its own unless one is given; `fields` as in the API, such as storageClass. Not when private."""
        name = name or f"bucket-{uuid.uuid4().hex[:12]}"
        answer = requests.post(f"{self.endpoint}/storage/v1/b?project=test", json={"name": name, **fields}, timeout=10)
        answer.raise_for_status()
        return name

    def service_account_key(self, path: Path) -> Path:
        """Write a key file as Google's console gives it out, whose token address is this server's. Only of a private server."""
        assert self._key is not None, "the server is not private"
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key = {
            "type": "service_account",
            "project_id": "test",
            "private_key_id": "1",
            "private_key": self._key.private_bytes(*form).decode(),
            "client_email": "uploads@test.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.endpoint}/token",
        }
        path.write_text(json.dumps(key))
        return path
