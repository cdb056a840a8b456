"""TLS to one server: which authorities may vouch for it, under which name, and the certificate that we show."""

import ssl
from dataclasses import dataclass
from typing import Any

from requests.adapters import HTTPAdapter

from serviceidentity.adapters.memory_file import no_password, readable
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import SettingsError


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What a TLS context is made of, in PEM. No authorities: those of the system; no certificate: none is shown."""

    authorities: str | None = None
    certificate: bytes | None = None
    key: KeyMaterial | None = None


def context_of(material: TlsMaterial) -> ssl.SSLContext:
    """Return a context that verifies the server. Raises SettingsError when the material can't be used."""
    if material.authorities is not None and not material.authorities.strip():
        raise SettingsError("the CA bundle is empty")  # an empty one would mean the system's authorities
    try:
        context = ssl.create_default_context(cadata=material.authorities)
    except (ssl.SSLError, ValueError):
        raise SettingsError("the CA bundle holds no certificates in PEM") from None
    # Extensions that RFC 5280 asks of authorities, and that OpenSSL's `req -x509` left out for long: from Python 3.13
    # on such a CA would be refused, while each of Vault's own tools takes it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if material.certificate is not None and material.key is not None:
        try:
            with readable(material.certificate + b"\n" + material.key.reveal()) as file:
                context.load_cert_chain(file, password=no_password)
        except (ssl.SSLError, OSError, ValueError, RuntimeError):
            raise SettingsError("the client certificate and its key can't be used together") from None
    return context


class VerifyingAdapter(HTTPAdapter):  # type: ignore[misc]  # requests has no types
    """Connections with a context of ours. `server_name` is the name in the server's certificate, if not the host's."""

    def __init__(self, context: ssl.SSLContext, server_name: str | None, connections: int) -> None:
        self._tls: dict[str, Any] = {"ssl_context": context}
        if server_name is not None:
            self._tls["server_hostname"] = server_name
        super().__init__(pool_connections=1, pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, **self._tls)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, **self._tls)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave the connection as the context has it: requests would add the authorities that it brings along."""
