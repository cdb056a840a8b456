"""OpenBao on one node: the root token is known, secret/ is a KV store of version 2, as in its development mode.

Unlike development mode it stores what it holds, so a test may stop it, start it and find its leases and tokens again.
"""

import json
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from tests.controlplane.binaries import beside_python
from tests.controlplane.certificates import self_signed
from tests.controlplane.kubeapi import write_private
from tests.controlplane.processes import Process, free_port

ROOT_TOKEN: Final = "root"
# sys/health answers with a code for each state
ACTIVE, UNINITIALISED, SEALED, UNREACHABLE = 200, 501, 503, 0

_SERVED: Final = re.compile(r"^\w+_core_handle_(?:login_)?request_count(?:{.*})? (\S+)$", re.MULTILINE)

_CONFIGURATION: Final = """
storage "raft" {{
  path = "{directory}/openbao"
  node_id = "one"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  {tls}
}}
telemetry {{
  prometheus_retention_time = "24h"
  disable_hostname = true
}}
api_addr = "{address}"
cluster_addr = "http://127.0.0.1:{cluster_port}"
"""


class OpenBao:
    """One server. `address`, `root_token` and `ca_file` are what VAULT_ADDR, VAULT_TOKEN and VAULT_CACERT want."""

    def __init__(self, directory: Path, *, tls: bool = False) -> None:
        """Prepare a server that lives in `directory`; with TLS, its certificate is its own CA, and in `ca_file`.

        Raises MissingProgramError when there is no bao.
        """
        port = free_port()
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self.ca_file: Path | None = None
        self._trust: ssl.SSLContext | None = None
        listener = "tls_disable = true"
        if tls:
            self.ca_file, key_file = self_signed(directory, "openbao")
            self._trust = ssl.create_default_context(cafile=str(self.ca_file))
            listener = f'tls_cert_file = "{self.ca_file}"\n  tls_key_file = "{key_file}"'
        self.root_token = ROOT_TOKEN
        (directory / "openbao").mkdir(mode=0o700)
        text = _CONFIGURATION.format(
            directory=directory, address=self.address, port=port, cluster_port=free_port(), tls=listener
        )
        configuration = write_private(directory / "openbao.hcl", text.encode())
        command = [str(beside_python("bao")), "server", f"-config={configuration}"]
        self.process = Process("openbao", command, directory, {"HOME": str(directory)})
        self._unseal_key = ""

    def start(self) -> None:
        """Start the server and wait until it serves; what it held before a stop is there again.

        Raises NotReadyError with the end of its log when it does not come up.
        """
        self.process.start()
        self.process.wait_until(lambda: self.health() != UNREACHABLE)
        if self.health() == UNINITIALISED:
            self._initialise()
        else:
            self.unseal()

    def stop(self) -> None:
        """Stop the server at once, as a crash does."""
        self.process.kill()

    def seal(self) -> None:
        """Seal it: every request is answered with 503 until it is unsealed."""
        self.request("PUT", "sys/seal")

    def unseal(self) -> None:
        """Unseal it and wait until it serves again."""
        self.request("PUT", "sys/unseal", {"key": self._unseal_key})
        self.process.wait_until(lambda: self.health() == ACTIVE)

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, token: str | None = None
    ) -> dict[str, Any]:
        """Send one request, as root unless a token is given. Raises urllib.error.HTTPError as the server answers."""
        request = urllib.request.Request(
            f"{self.address}/v1/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"X-Vault-Token": self.root_token if token is None else token},
        )
        with urllib.request.urlopen(request, timeout=10, context=self._trust) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def health(self) -> int:
        """Return the code that sys/health answers with; UNREACHABLE when nothing answers."""
        try:
            with urllib.request.urlopen(f"{self.address}/v1/sys/health", timeout=2, context=self._trust) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return UNREACHABLE

    def served(self) -> int:
        """Return how many requests it has handled since it started, logins too; not those for its health."""
        request = urllib.request.Request(
            f"{self.address}/v1/sys/metrics?format=prometheus", headers={"X-Vault-Token": self.root_token}
        )
        with urllib.request.urlopen(request, timeout=10, context=self._trust) as answer:
            return sum(int(float(number)) for number in _SERVED.findall(answer.read().decode()))

    def _initialise(self) -> None:
        made = self.request("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
        self._unseal_key = made["keys"][0]
        self.unseal()
        known = {"id": ROOT_TOKEN, "policies": ["root"], "no_parent": True}
        self.request("POST", "auth/token/create", known, token=made["root_token"])
        self.request("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        self.process.wait_until(self._kv_is_ready)

    def _kv_is_ready(self) -> bool:
        """A new store of version 2 refuses requests while it upgrades itself from version 1."""
        try:
            self.request("GET", "secret/config")
        except urllib.error.HTTPError:
            return False
        return True
