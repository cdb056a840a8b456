"""The server of JWK Sets, for real: TLS versions, certificates that change, slow and rude clients."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serviceidentity.adapters.web.server import HttpsServer
from serviceidentity.app.jwt.serving import NOT_FOUND, Answer
from serviceidentity.domain.material import SecretContent, SecretView
from serviceidentity.domain.pki import keys
from serviceidentity.domain.pki.keys import KeyEncoding
from serviceidentity.errors import RetryableError

pytestmark = pytest.mark.contract
NAME = "serviceidentity-jwks.serviceidentity-system.svc"


def new_certificate() -> tuple[bytes, bytes]:
    key, now, name = (
        ec.generate_private_key(ec.SECP256R1()),
        datetime.now(UTC),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jwks")]),
    )
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(days=1)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), keys.encode(key, KeyEncoding.PKCS8)


def serial_of(pem: bytes) -> int:
    return x509.load_pem_x509_certificate(pem).serial_number


class Held:
    """The Secret with the certificate; `version` goes up with each one."""

    def __init__(self) -> None:
        self.view: SecretView | None = None
        self.failing = False
        self.version = 0

    def put(self, certificate: bytes, key: bytes) -> None:
        self.version += 1
        content = SecretContent.of("kubernetes.io/tls", {"tls.crt": certificate, "tls.key": key}, {})
        self.view = SecretView("system", "jwks-tls", "uid", self.version, content.type, {}, {}, (), content.data)

    async def read(self) -> SecretView | None:
        if self.failing:
            raise RetryableError("away")
        return self.view


def route(path: str, if_none_match: str | None) -> Answer:
    if path == "/broken":
        raise ZeroDivisionError("with a secret in its text")
    if path == "/large":
        return Answer(200, {"Content-Type": "text/plain"}, b"a" * 1_000_000)
    return Answer(200, {"Content-Type": "text/plain", "ETag": '"a"'}, b"hello\n") if path == "/hello" else NOT_FOUND


def client(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, server: HttpsServer, context: ssl.SSLContext | None = None, name: str = NAME) -> "Client":
        return cls(
            *await asyncio.open_connection("127.0.0.1", server.port, ssl=context or client(), server_hostname=name)
        )

    async def send(self, text: str) -> None:
        self.writer.write(text.encode())
        await self.writer.drain()

    async def ask(self, method: str = "GET", path: str = "/hello", more: str = "") -> tuple[int, dict[str, str], bytes]:
        await self.send(f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\n{more}\r\n")
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers["content-length"])) if method != "HEAD" else b""
        return int(first.split()[1]), headers, body

    @property
    def serial(self) -> int:
        der = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number

    async def ended(self, within: float = 10) -> bytes:
        """What came until the server ended the connection."""
        async with asyncio.timeout(within):
            try:
                return await self.reader.read()
            except OSError:
                return b""


def serve(
    work: Callable[[HttpsServer, Held], Awaitable[None]], certificate: tuple[bytes, bytes] | None = None, **options: Any
) -> None:
    async def run() -> None:
        held = Held()
        if certificate is not None:
            held.put(*certificate)
        server = HttpsServer("127.0.0.1", 0, route, held.read, **{"look_every": 0.02, "idle": 5.0} | options)
        task = asyncio.create_task(server.run())
        try:
            async with asyncio.timeout(30):
                while certificate is not None and server.port is None:
                    await asyncio.sleep(0.01)
                await work(server, held)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


FIRST, SECOND = new_certificate(), new_certificate()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_it_answers_with_tls_1_2_and_1_3_whatever_name_is_asked_for(version: ssl.TLSVersion):
    async def work(server: HttpsServer, held: Held) -> None:
        for name in (NAME, "another.example"):
            found = await Client.connect(server, client(version), name)
            assert (await found.ask())[0] == 200
            assert found.serial == serial_of(FIRST[0])

    serve(work, FIRST)


def test_tls_1_1_and_plain_http_are_refused():
    async def work(server: HttpsServer, held: Held) -> None:
        old = client()
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            await Client.connect(server, old)
        plain = Client(*await asyncio.open_connection("127.0.0.1", server.port))
        await plain.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"hello" not in await plain.ended()
        assert (await (await Client.connect(server)).ask())[0] == 200

    serve(work, FIRST)


def test_head_is_get_without_the_body_and_no_other_method_is_there():
    async def work(server: HttpsServer, held: Held) -> None:
        found = await Client.connect(server)
        status, headers, _ = await found.ask("HEAD")
        assert (status, headers["content-length"], headers["etag"]) == (200, "6", '"a"')
        assert (await found.ask())[2] == b"hello\n"
        status, headers, _ = await found.ask("DELETE")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert (await found.ask(path="/nowhere"))[0] == 404

    serve(work, FIRST)


def test_a_new_certificate_is_for_new_connections_and_open_ones_go_on():
    async def work(server: HttpsServer, held: Held) -> None:
        old = await Client.connect(server)
        assert (await old.ask())[0] == 200
        held.put(*SECOND)
        while (found := await Client.connect(server)).serial != serial_of(SECOND[0]):
            await asyncio.sleep(0.02)
        assert (await found.ask())[0] == (await old.ask())[0] == 200
        assert old.serial == serial_of(FIRST[0])

    serve(work, FIRST)


def test_it_listens_as_soon_as_there_is_a_certificate_and_tells_once_that_there_is_none(
    caplog: pytest.LogCaptureFixture,
):
    async def work(server: HttpsServer, held: Held) -> None:
        await asyncio.sleep(0.2)  # several looks
        assert server.port is None
        held.put(*FIRST)
        while server.port is None:
            await asyncio.sleep(0.01)
        assert (await (await Client.connect(server)).ask())[0] == 200

    serve(work)
    assert len([line for line in caplog.messages if "there is no certificate yet" in line]) == 1


@pytest.mark.parametrize("trouble", ["mismatch", "junk", "gone", "away"])
def test_with_a_certificate_that_can_not_be_used_the_last_one_stays(trouble: str, caplog: pytest.LogCaptureFixture):
    async def work(server: HttpsServer, held: Held) -> None:
        if trouble in ("mismatch", "junk"):
            held.put(SECOND[0], FIRST[1] if trouble == "mismatch" else b"junk")
        elif trouble == "gone":
            held.view = None
        else:
            held.failing = True
        while not any(line.levelname == "WARNING" for line in caplog.records):
            await asyncio.sleep(0.02)
        found = await Client.connect(server)
        assert ((await found.ask())[0], found.serial) == (200, serial_of(FIRST[0]))
        held.failing = False
        held.put(*SECOND)
        while (await Client.connect(server)).serial != serial_of(SECOND[0]):
            await asyncio.sleep(0.02)

    serve(work, FIRST)
    assert "BEGIN" not in caplog.text


def test_slow_and_silent_clients_are_cut_off_and_hold_nobody_up():
    async def work(server: HttpsServer, held: Held) -> None:
        silent = await Client.connect(server)
        slow = await Client.connect(server)
        shy = Client(*await asyncio.open_connection("127.0.0.1", server.port))  # never begins its handshake

        async def dribble() -> None:
            for letter in f"GET /hello HTTP/1.1\r\nX: {'a' * 5000}":
                await slow.send(letter)
                await asyncio.sleep(0.05)

        task = asyncio.create_task(dribble())
        assert await silent.ended() == b""
        assert await slow.ended() == b""
        assert await shy.ended() == b""
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await (await Client.connect(server)).ask())[0] == 200

    serve(work, FIRST, idle=0.5, handshake=0.5)


def test_a_connection_ends_even_when_its_client_goes_on_and_no_request_is_lost_by_it():
    async def work(server: HttpsServer, held: Held) -> None:
        found = await Client.connect(server)
        while "close" not in (answer := await found.ask())[1].get("connection", ""):
            await asyncio.sleep(0.05)
        assert answer[0] == 200
        assert await found.ended() == b""

    serve(work, FIRST, lives=0.3)


def test_who_takes_no_answer_is_cut_off_in_the_end():
    async def work(server: HttpsServer, held: Held) -> None:
        found = await Client.connect(server)
        found.writer.transport.pause_reading()
        request = f"GET /large HTTP/1.1\r\nHost: {NAME}\r\n\r\n" * 50

        async def go_on() -> None:
            while True:
                await found.send(request)
                await asyncio.sleep(0.05)

        with pytest.raises(OSError):
            await asyncio.wait_for(go_on(), 20)

    serve(work, FIRST, lives=0.3, idle=0.3, farewell=0.3)


def test_more_connections_than_allowed_wait_for_their_turn():
    async def work(server: HttpsServer, held: Held) -> None:
        first, second = await Client.connect(server), await Client.connect(server)
        waiting = asyncio.create_task(Client.connect(server))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        assert (await first.ask())[0] == (await second.ask())[0] == 200
        first.writer.close()
        assert (await (await waiting).ask())[0] == 200

    serve(work, FIRST, most_connections=2)


def test_one_client_does_not_take_all_connections():
    async def work(server: HttpsServer, _held: Held) -> None:
        hogs = [await Client.connect(server) for _ in range(2)]
        for hog in hogs:
            assert (await hog.ask())[0] == 200
        with pytest.raises(OSError):
            await Client.connect(server)  # the third from this address
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=client(), server_hostname=NAME, local_addr=("127.0.0.2", 0)
        )
        assert (await Client(reader, writer).ask())[0] == 200
        hogs[0].writer.close()
        async with asyncio.timeout(10):
            while True:  # until the server has seen that it is gone
                try:
                    assert (await (await Client.connect(server)).ask())[0] == 200
                    break
                except OSError:
                    await asyncio.sleep(0.05)

    serve(work, FIRST, most_connections=4, most_of_one_client=2)


@pytest.mark.parametrize(
    "more",
    ["X: " + "a" * 20_000 + "\r\n", "".join(f"X-{n}: a\r\n" for n in range(200)), "no colon\r\n", "X: \x00\r\n"],
    ids=["long", "many", "malformed", "control character"],
)
def test_headers_beyond_the_limits_are_refused_without_a_word(more: str):
    async def work(server: HttpsServer, held: Held) -> None:
        found = await Client.connect(server)
        status, _, body = await found.ask(more=more)
        assert (status, body) == (400, b"error\n")
        assert await found.ended() == b""

    serve(work, FIRST)


def test_a_body_is_not_read_and_ends_the_connection():
    async def work(server: HttpsServer, held: Held) -> None:
        found = await Client.connect(server)
        assert (await found.ask(more="Content-Length: 1000000\r\n"))[0] == 200
        assert await found.ended() == b""

    serve(work, FIRST)


def test_trouble_inside_shows_neither_trace_nor_versions(caplog: pytest.LogCaptureFixture):
    async def work(server: HttpsServer, held: Held) -> None:
        status, headers, body = await (await Client.connect(server)).ask(path="/broken")
        assert (status, body, headers["server"]) == (500, b"error\n", "serviceidentity")

    serve(work, FIRST)
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text


def test_a_port_that_is_taken_is_tried_again(caplog: pytest.LogCaptureFixture):
    async def run() -> None:
        held = Held()
        held.put(*FIRST)
        taken = socket.create_server(("127.0.0.1", 0))
        server = HttpsServer("127.0.0.1", taken.getsockname()[1], route, held.read, look_every=0.02)
        task = asyncio.create_task(server.run())
        while "can't be listened on" not in caplog.text:
            await asyncio.sleep(0.01)
        taken.close()
        while server.port is None:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 20))
