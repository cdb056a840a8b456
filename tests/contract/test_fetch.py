"""Bundles are read over HTTPS: whom the server has to be, how much is read, for how long."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serviceidentity.adapters.web.fetch import fetch
from serviceidentity.adapters.web.server import context_of
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki import keys
from serviceidentity.domain.pki.keys import KeyEncoding
from serviceidentity.errors import PortError, RejectedError, RetryableError, SettingsError

pytestmark = pytest.mark.contract


def certificate(address: str = "127.0.0.1") -> tuple[str, ssl.SSLContext]:
    key, now, name = (
        ec.generate_private_key(ec.SECP256R1()),
        datetime.now(UTC),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")]),
    )
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(days=1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return pem.decode(), context_of(pem, KeyMaterial(keys.encode(key, KeyEncoding.PKCS8)))


HERE, CONTEXT = certificate()
ELSEWHERE, OTHER_CONTEXT = certificate("192.0.2.1")


def during(
    answer: bytes, work: Callable[[str], Awaitable[None]], context: ssl.SSLContext = CONTEXT, *, stall: bool = False
) -> list[bytes]:
    """Answer every request with these bytes; return the requests."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            if stall:
                await asyncio.sleep(30)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        try:
            await asyncio.wait_for(work(f"https://127.0.0.1:{port}/bundle"), 20)
        finally:
            server.close()

    asyncio.run(run())
    return requests


def answered(status: str = "200 OK", body: bytes = b"{}", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def refused(
    answer: bytes, kind: type[PortError], why: str, authorities: str | None = HERE, **options: object
) -> list[bytes]:
    async def work(url: str) -> None:
        with pytest.raises(kind, match=why):
            await fetch(url, authorities, 1000, within=1.0)

    return during(answer, work, **options)  # type: ignore[arg-type]


def test_a_document_is_read_and_nothing_is_told_of_us():
    async def work(url: str) -> None:
        assert await fetch(url, HERE, 1000) == b'{"keys": []}'

    (request,) = during(answered(body=b'{"keys": []}'), work)
    assert b"aiohttp" not in request and b"Python" not in request


def test_the_server_has_to_be_the_one_in_the_url():
    refused(answered(), RejectedError, "not trusted", authorities=ELSEWHERE)
    refused(answered(), RejectedError, "not trusted", authorities=None)
    refused(answered(), RejectedError, "not trusted", authorities=ELSEWHERE, context=OTHER_CONTEXT)


def test_no_redirect_is_followed():
    requests = refused(answered("302 Found", more="Location: /elsewhere\r\n"), RejectedError, "answered 302")
    assert len(requests) == 1


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content"])
def test_any_other_answer_is_told_by_its_number_only(status: str):
    refused(answered(status, b""), RejectedError, f"answered {status[:3]}$")


def test_no_more_is_read_than_a_bundle_may_have():
    refused(answered(body=b"a" * 1001), RejectedError, "longer than 1000 bytes")
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 1_000_000
    refused(endless, RejectedError, "longer than 1000 bytes", stall=True)


def test_nothing_is_unpacked():
    refused(answered(more="Content-Encoding: gzip\r\n"), RejectedError, "compresses")


@pytest.mark.parametrize("answer", [b"", b"junk\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\na"])
def test_what_is_no_answer_may_be_one_later(answer: bytes):
    refused(answer, RetryableError, "does not answer")


def test_a_server_that_does_not_go_on_is_left():
    refused(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\na", RetryableError, "does not answer", stall=True)


def test_authorities_that_are_none_are_told():
    refused(answered(), SettingsError, "no certificates", authorities="text")
