"""Services under way: they connect to each other without pause, with files that follow their Secrets as a mount does."""

import json
import random
import subprocess
import tempfile
import threading
import time
from base64 import b64decode
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from examples.demo import mtls
from tests.e2e.support import Space

MOUNT_DELAY: Final = 1.0  # seconds; the files are at most twice that behind the Secret. A kubelet takes a minute or two
CA_FILES: Final = ("tls.crt", "tls.key", "ca.crt")


class Pod:
    """A service with the files of its certificate Secret, which come some time after the Secret has changed."""

    def __init__(self, space: Space, name: str) -> None:
        self.space, self.name = space, name
        self.server_name = f"{name}.{space.name}.svc"
        self.files = self._read()

    def _read(self) -> dict[str, bytes]:
        path = f"/api/v1/namespaces/{self.space.name}/secrets/{self.name}-tls"
        data = json.loads(self.space.plane.raw(path))["data"]
        return {key: b64decode(data[key]) for key in CA_FILES}

    def mount(self, stop: threading.Event) -> None:
        """Follow the Secret; all files change at once, as with a mounted volume."""
        while not stop.is_set():
            files = self._read()
            stop.wait(random.uniform(0, MOUNT_DELAY))
            self.files = files


def openssl_accepts(server: Pod, client: Pod) -> str:
    """Verify both sides' chains as the other would, with OpenSSL's command; return what it has against them."""
    with tempfile.TemporaryDirectory() as directory:
        for one, other, purpose in ((server, client, "sslserver"), (client, server, "sslclient")):
            chain, roots = Path(directory, "tls.crt"), Path(directory, "ca.crt")
            chain.write_bytes(one.files["tls.crt"])
            roots.write_bytes(other.files["ca.crt"])
            command = ["openssl", "verify", "-x509_strict", f"-purpose={purpose}", "-CAfile", str(roots)]
            done = subprocess.run(
                [*command, "-untrusted", str(chain), str(chain)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                return done.stderr.strip()
    return ""


class Traffic:
    """Connections in both directions between two pods for as long as the block lasts."""

    def __init__(self, one: Pod, other: Pod) -> None:
        self.pods = (one, other)
        self.connections = 0
        self.verifications = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=pod.mount, args=(self._stop,)) for pod in self.pods]
        self._threads += [threading.Thread(target=self._connect, args=pair) for pair in ((one, other), (other, one))]
        self._threads.append(threading.Thread(target=self._verify))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _connect(self, server: Pod, client: Pod) -> None:
        while not self._stop.is_set():
            mine, theirs = client.files, server.files
            seen = mtls.connect(theirs, mine, server.server_name, roots=mine["ca.crt"])
            self.connections += 1
            if not seen.established:
                self.failures.append(f"{time.time():.1f} {client.name}: {seen.client_refused or seen.server_refused}")
            time.sleep(0.02)

    def _verify(self) -> None:
        while not self._stop.is_set():
            against = openssl_accepts(*self.pods)
            self.verifications += 1
            if against:
                self.failures.append(f"{time.time():.1f} openssl: {against}")
            time.sleep(0.2)
