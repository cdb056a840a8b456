"""How the control plane's programs are started: their flags, ports and key, all in one directory."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.controlplane.binaries import find
from tests.controlplane.kubeapi import write_kubeconfig, write_private
from tests.controlplane.processes import Process, free_port


@dataclass(frozen=True)
class Layout:
    """Where everything of one control plane is: addresses, files and the admin's token."""

    directory: Path
    etcd_port: int = field(default_factory=free_port)
    etcd_peer_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    manager_port: int = field(default_factory=free_port)
    admin_token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.etcd_port}"

    @property
    def ca_file(self) -> Path:
        """The API server signs its own certificate here and leaves what signed it in the same file."""
        return self.directory / "certs" / "apiserver.crt"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.directory / "admin.kubeconfig"

    @property
    def service_account_key(self) -> Path:
        return self.directory / "service-accounts.key"

    @property
    def tokens(self) -> Path:
        return self.directory / "tokens.csv"

    def write(self) -> None:
        """Write the files that must be there before the first program starts."""
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        write_private(self.service_account_key, pem)
        write_private(self.tokens, f'{self.admin_token},admin,admin,"system:masters"\n'.encode())
        write_kubeconfig(self.admin_kubeconfig, self.url, self.ca_file, self.admin_token)

    def processes(self) -> dict[str, Process]:
        """Return the programs in the order in which they start. May build them; raises MissingProgramError."""
        flags = {"etcd": _etcd(self), "kube-apiserver": _api(self), "kube-controller-manager": _manager(self)}
        return {name: Process(name, [str(find(name)), *its], self.directory) for name, its in flags.items()}


def _etcd(layout: Layout) -> list[str]:
    peer = f"http://127.0.0.1:{layout.etcd_peer_port}"
    return [
        f"--data-dir={layout.directory / 'etcd'}",
        "--unsafe-no-fsync",  # what a power cut would lose is thrown away anyhow
        f"--listen-client-urls={layout.etcd_url}",
        f"--advertise-client-urls={layout.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def _api(layout: Layout) -> list[str]:
    return [
        f"--etcd-servers={layout.etcd_url}",
        f"--secure-port={layout.api_port}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={layout.directory / 'certs'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={layout.service_account_key}",
        f"--service-account-signing-key-file={layout.service_account_key}",
        f"--token-auth-file={layout.tokens}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
        "--shutdown-send-retry-after=false",
    ]


def _manager(layout: Layout) -> list[str]:
    return [
        f"--kubeconfig={layout.admin_kubeconfig}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={layout.service_account_key}",
        "--controllers=*",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.manager_port}",
        f"--cert-dir={layout.directory / 'manager-certs'}",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]
