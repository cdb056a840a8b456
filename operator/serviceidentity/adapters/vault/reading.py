"""What connections name in Secrets of the operator's own namespace."""

from typing import Final

from serviceidentity.adapters.vault.logins import as_token
from serviceidentity.adapters.vault.tls import TlsMaterial
from serviceidentity.app.ports import Secrets
from serviceidentity.domain.material import KeyMaterial, MalformedError, SecretView
from serviceidentity.domain.vault.spec import CertificateAuth, ConnectionSpec, SecretKey
from serviceidentity.errors import SettingsError

TLS_TYPE: Final = "kubernetes.io/tls"


class OwnSecrets:
    """Secrets of one namespace, read only."""

    def __init__(self, secrets: Secrets, namespace: str) -> None:
        self._secrets = secrets
        self._namespace = namespace

    async def value(self, at: SecretKey) -> bytes:
        """Return one value. Raises SettingsError when it is not there, and RetryableError."""
        return _value(await self._read(at.name), at.key)

    async def token(self, at: SecretKey, what: str) -> KeyMaterial:
        """Return one value that is a token or password. Raises SettingsError, and RetryableError."""
        return as_token(await self.value(at), f"Secret {at.name}, key {at.key}, which should have {what},")

    async def tls(self, spec: ConnectionSpec) -> TlsMaterial:
        """Return what the TLS of a connection is made of. Raises SettingsError, and RetryableError."""
        authorities = spec.ca
        if authorities is None and spec.ca_secret is not None:
            try:
                authorities = (await self.value(spec.ca_secret)).decode("ascii")
            except UnicodeDecodeError:
                raise SettingsError(f"Secret {spec.ca_secret.name} holds no certificates in PEM") from None
        if not isinstance(spec.auth, CertificateAuth):
            return TlsMaterial(authorities)
        view = await self._read(spec.auth.secret_name)
        if view.type != TLS_TYPE:
            raise SettingsError(f"Secret {view.name} is not of type {TLS_TYPE}")
        return TlsMaterial(authorities, _value(view, "tls.crt"), KeyMaterial(_value(view, "tls.key")))

    async def _read(self, name: str) -> SecretView:
        view = await self._secrets.read(self._namespace, name)
        if view is None:
            raise SettingsError(f"Secret {self._namespace}/{name} does not exist")
        return view


def _value(view: SecretView, key: str) -> bytes:
    try:
        return view.value(key)
    except MalformedError as error:
        raise SettingsError(f"Secret {view.name}: {error}") from None
