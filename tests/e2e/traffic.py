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


def openssl_connects(server: Pod, client: Pod) -> str:
    """Connect OpenSSL's s_client to its s_server, each with one pod's files; return what went wrong, or "".

    A line goes there and comes back reversed, so both sides have accepted each other's certificate.
    """
    with tempfile.TemporaryDirectory() as directory:
        ends = []
        for pod in (server, client):
            place = Path(directory, pod.name)
            place.mkdir()
            for name, content in pod.files.items():
                Path(place, name).write_bytes(content)
            chain, key, roots = (str(place / name) for name in CA_FILES)
            # cert_chain sends the intermediate along
            ends.append(["-cert", chain, "-cert_chain", chain, "-key", key, "-CAfile", roots, "-verify_return_error"])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        listen = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-rev", "-Verify", "3", *ends[0]]
        with subprocess.Popen(listen, **pipes) as serving:
            try:
                address = _line(serving, "ACCEPT ").split()[1]
                dial = ["openssl", "s_client", "-connect", address, "-verify_hostname", server.server_name]
                with subprocess.Popen([*dial, "-brief", *ends[1]], **pipes) as calling:
                    calling.stdin.write("hello\n")
                    calling.stdin.flush()
                    answer = _line(calling, "olleh")
                    calling.kill()
            finally:
                serving.kill()
    return "" if answer.startswith("olleh") else f"openssl: {answer}"


def _line(process: subprocess.Popen[str], start: str) -> str:
    """Return the first line that starts so; without one, all that was said."""
    said = []
    for line in process.stdout:
        if line.startswith(start):
            return line
        said.append(line.strip())
    return "; ".join(said)


class Traffic:
    """Connections in both directions between two pods for as long as the block lasts."""

    def __init__(self, one: Pod, other: Pod) -> None:
        self.pods = (one, other)
        self.connections = 0
        self.openssl_connections = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=pod.mount, args=(self._stop,)) for pod in self.pods]
        self._threads += [threading.Thread(target=self._connect, args=pair) for pair in ((one, other), (other, one))]
        self._threads.append(threading.Thread(target=self._connect_with_openssl))

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
            time.sleep(0.05)

    def _connect_with_openssl(self) -> None:
        while not self._stop.is_set():
            against = openssl_connects(*self.pods) or openssl_connects(*reversed(self.pods))
            self.openssl_connections += 2
            if against:
                self.failures.append(f"{time.time():.1f} {against}")
            time.sleep(0.4)
