"""The TLS extension of ASGI: what a server tells an application about the connection of a request.

https://asgi.readthedocs.io/en/latest/specs/tls.html. `client_cert_chain` here is the chain as it was verified, leaf
first and root last, not what the client sent along with it.
"""

import ssl
from typing import Any, Final

_CIPHERS: Final = {  # RFC 8446 appendix B.4
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
}
_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def tls_extension(connection: ssl.SSLObject) -> dict[str, Any]:
    """Return `scope["extensions"]["tls"]` for a connection whose handshake is done."""
    cipher = connection.cipher()
    return {
        "server_cert": None,
        "client_cert_chain": tuple(ssl.DER_cert_to_PEM_cert(der) for der in _verified_chain(connection)),
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(connection.version() or ""),
        "cipher_suite": _CIPHERS.get(cipher[0]) if cipher else None,
    }


def _verified_chain(connection: ssl.SSLObject) -> list[bytes]:
    """Return the peer's chain in DER; empty if it showed no certificate."""
    if connection.getpeercert(binary_form=True) is None:
        return []
    if hasattr(connection, "get_verified_chain"):  # Python 3.13
        return list(connection.get_verified_chain())
    return [ssl.PEM_cert_to_DER_cert(found.public_bytes()) for found in connection._sslobj.get_verified_chain()]  # type: ignore[attr-defined]  # noqa: SLF001
