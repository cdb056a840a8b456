"""OpenBao in development mode: in memory, unsealed, with a root token that is known."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from tests.controlplane.binaries import beside_python
from tests.controlplane.processes import Process, free_port

ROOT_TOKEN: Final = "root"


class OpenBao:
    """One server. `address` and `root_token` are what VAULT_ADDR and VAULT_TOKEN want."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.root_token = ROOT_TOKEN
        command = [
            str(beside_python("bao")),
            "server",
            "-dev",
            "-dev-no-store-token",
            f"-dev-root-token-id={ROOT_TOKEN}",
            f"-dev-listen-address=127.0.0.1:{port}",
        ]
        self.process = Process("openbao", command, directory, {"HOME": str(directory)})

    def start(self) -> None:
        """Start the server and wait until it answers. In development mode its content does not survive a stop."""
        self.process.start()
        self.process.wait_until(lambda: self._health() == 200)

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop()

    def seal(self) -> None:
        """Seal it: every request is answered with 503 until it is unsealed."""
        self.request("PUT", "sys/seal")

    def unseal(self) -> None:
        """Unseal it with the key that development mode printed."""
        line = next(line for line in self.process.log.read_text().splitlines() if line.startswith("Unseal Key:"))
        self.request("PUT", "sys/unseal", {"key": line.split(":", 1)[1].strip()})

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request as root. Raises urllib.error.HTTPError as the server answers."""
        request = urllib.request.Request(
            f"{self.address}/v1/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"X-Vault-Token": self.root_token},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def _health(self) -> int:
        try:
            with urllib.request.urlopen(f"{self.address}/v1/sys/health", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0
