"""Mutual TLS with what is in a certificate Secret, over real sockets."""

import socket
import ssl
import tempfile
import threading
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

TIMEOUT: Final = 5.0


@dataclass(frozen=True)
class Peer:
    """Who is on the other side, from its verified certificate."""

    common_name: str
    spiffe_id: str
    serial: str


@dataclass(frozen=True)
class Outcome:
    """How a connection went, as the server saw it: the caller, or why it was refused."""

    caller: Peer | None
    refused: str = ""


def context(secret: Mapping[str, str] | None, roots: Mapping[str, str], purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return a TLS 1.3 context from the data of certificate Secrets: own key pair (if any) and the roots to trust."""
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if purpose is ssl.Purpose.CLIENT_AUTH else ssl.PROTOCOL_TLS_CLIENT)
    result.minimum_version = ssl.TLSVersion.TLSv1_3
    result.verify_mode = ssl.CERT_REQUIRED
    result.load_verify_locations(cadata=b64decode(roots["ca.crt"]).decode())
    if secret is not None:
        with tempfile.TemporaryDirectory() as directory:  # Python's ssl reads key pairs from files only
            for name in ("tls.crt", "tls.key"):
                path = Path(directory) / name
                path.touch(mode=0o600)
                path.write_bytes(b64decode(secret[name]))
            result.load_cert_chain(Path(directory) / "tls.crt", Path(directory) / "tls.key")
    return result


def connect(
    server: Mapping[str, str], client: Mapping[str, str] | None, name: str, trusted: Mapping[str, str] | None = None
) -> Outcome:
    """Connect a client to a server that demands a certificate, and exchange one line.

    `name` is the server name that the client insists on; `trusted` has the client's roots where it has no Secret.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[Outcome] = []
    thread = threading.Thread(target=_serve, args=(listener, context(server, server, ssl.Purpose.CLIENT_AUTH), seen))
    thread.start()
    try:
        tls = context(client, trusted or client or server, ssl.Purpose.SERVER_AUTH)
        with (
            socket.create_connection(listener.getsockname(), TIMEOUT) as plain,
            tls.wrap_socket(plain, server_hostname=name) as connection,
        ):
            connection.sendall(b"hello\n")
            connection.recv(16)  # with TLS 1.3 a refusal comes only now
    except (OSError, ssl.SSLError) as error:
        seen.append(Outcome(None, f"{getattr(error, 'reason', None) or error}"))
    finally:
        thread.join(TIMEOUT)
        listener.close()
    return seen[0] if seen else Outcome(None, "the server did not answer")


def _serve(listener: socket.socket, tls: ssl.SSLContext, seen: list[Outcome]) -> None:
    listener.settimeout(TIMEOUT)
    try:
        plain, _ = listener.accept()
        plain.settimeout(TIMEOUT)
        with plain, tls.wrap_socket(plain, server_side=True) as connection:
            certificate = connection.getpeercert(binary_form=True) or b""
            connection.recv(16)
            connection.sendall(b"welcome\n")
            seen.append(Outcome(peer(x509.load_der_x509_certificate(certificate))))
    except (OSError, ssl.SSLError) as error:
        seen.append(Outcome(None, f"{getattr(error, 'reason', None) or error}"))


def peer(certificate: x509.Certificate) -> Peer:
    """Return who a certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return Peer(str(common[0].value) if common else "", uris[0], f"{certificate.serial_number:x}")
