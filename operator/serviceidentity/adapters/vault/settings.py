"""Which server, and who we are there: from the environment variables that Vault's own tools know, and a few more."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.vault import spec
from serviceidentity.domain.vault.spec import AllowedNamespaces, Auth, ConnectionSpec, JwtAuth
from serviceidentity.errors import SettingsError

logger = logging.getLogger(__name__)

SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True, slots=True)
class TokenAuth:
    """A token from the environment, or in a file, which is read anew when the server refuses the token in use."""

    token: KeyMaterial | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class KubernetesAuth:
    """The auth method "kubernetes": `role` on `mount`, proven with the service account token in a file."""

    role: str
    mount: str = "kubernetes"
    token_file: Path = SERVICE_ACCOUNT_TOKEN


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """How to reach one server, and how to log in. `ca_file` None means the system's authorities."""

    address: str
    auth: TokenAuth | KubernetesAuth
    ca_file: str | None = None
    namespace: str | None = None


def from_environment(environment: Mapping[str, str]) -> VaultSettings:
    """Read VAULT_ADDR, VAULT_CACERT, VAULT_NAMESPACE, and one way to log in.

    That is SIO_VAULT_ROLE or VAULT_ROLE (with SIO_VAULT_AUTH_MOUNT and SIO_VAULT_JWT_FILE) for the auth method
    "kubernetes", SIO_VAULT_TOKEN_FILE, or VAULT_TOKEN. Raises SettingsError.
    """
    given = {name: value for name, value in environment.items() if value}
    address = checked_address(given.get("VAULT_ADDR", ""), "VAULT_ADDR")
    ca_file = given.get("VAULT_CACERT")
    if ca_file is not None and not Path(ca_file).exists():
        raise SettingsError("the file that VAULT_CACERT names does not exist")
    return VaultSettings(address, _auth(given), ca_file, given.get("VAULT_NAMESPACE"))


def checked_address(address: str, what: str) -> str:
    """Return an address as requests are made from it. Raises SettingsError, which names it by `what`."""
    address = address.rstrip("/")
    try:
        parts = urlsplit(address)
        found = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets, or a port that is none
        found = False
    if not found or not address.isascii() or not address.isprintable() or " " in address:
        raise SettingsError(f"{what} must be the address of Vault or OpenBao, such as https://vault.example.org:8200")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(f"{what} must be an address and nothing else")
    if parts.scheme == "http":
        logger.warning("%s is a plain http address: keys and tokens go over the network unprotected", what)
    return address


def default_connection(environment: Mapping[str, str], namespaces: tuple[str, ...]) -> ConnectionSpec:
    """Return what the environment says of the VaultConnection "default", open to `namespaces`. Raises SettingsError."""
    settings = from_environment(environment)
    auth: Auth
    if isinstance(settings.auth, KubernetesAuth):
        # The methods "kubernetes" and "jwt" ask for the same: a role, and a token.
        auth = JwtAuth(settings.auth.mount, settings.auth.role, str(settings.auth.token_file))
    elif settings.auth.file is not None:
        auth = spec.TokenAuth(file=str(settings.auth.file))
    else:
        auth = spec.TokenAuth(given=settings.auth.token)
    try:
        authorities = Path(settings.ca_file).read_text("ascii") if settings.ca_file else None
    except (OSError, UnicodeDecodeError):
        raise SettingsError("the file that VAULT_CACERT names can't be read as certificates in PEM") from None
    return ConnectionSpec(
        settings.address, auth, AllowedNamespaces(namespaces), ca=authorities, vault_namespace=settings.namespace
    )


_WAYS: Final = ("SIO_VAULT_ROLE", "VAULT_ROLE", "SIO_VAULT_TOKEN_FILE", "VAULT_TOKEN")


def _auth(given: Mapping[str, str]) -> TokenAuth | KubernetesAuth:
    ways = [name for name in _WAYS if name in given]
    if len(ways) != 1:
        raise SettingsError(
            "exactly one of SIO_VAULT_ROLE (or VAULT_ROLE), SIO_VAULT_TOKEN_FILE and VAULT_TOKEN must be set"
        )
    match ways[0]:
        case "SIO_VAULT_ROLE" | "VAULT_ROLE":
            mount = given.get("SIO_VAULT_AUTH_MOUNT", "kubernetes").strip("/")
            file = Path(given.get("SIO_VAULT_JWT_FILE", str(SERVICE_ACCOUNT_TOKEN)))
            return KubernetesAuth(given[ways[0]], mount, file)
        case "SIO_VAULT_TOKEN_FILE":
            return TokenAuth(file=Path(given["SIO_VAULT_TOKEN_FILE"]))
        case _:
            return TokenAuth(token=KeyMaterial(given["VAULT_TOKEN"].encode()))
