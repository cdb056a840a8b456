"""TLS 1.3 handshakes in memory, and following mounted files: the SDK beside the ssl module by hand."""

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.sdk.measure import Case, WrongAnswerError
from bench.sdk.pki import Files, Mounted, Pki, spiffe_id
from serviceidentity_sdk.mtls import MutualTLS, Peers


def cases(pki: Pki, room: Path) -> Iterator[Case]:
    """Handshakes without revocation lists, with short ones and with long ones; then files."""
    for name, revoked in (("", None), (", CRL of 10", 10), (", CRL of 10000", 10_000)):
        yield _handshake(f"handshake{name}", pki, room / f"handshake{revoked}", revoked)
    yield from _files(pki, room / "files")


def _handshake(name: str, pki: Pki, room: Path, revoked: int | None) -> Case:
    server_files, client_files = pki.files("payment-service", revoked=revoked), pki.files("order-service")
    server = MutualTLS(Mounted(room / "server", server_files).path)
    client = MutualTLS(Mounted(room / "client", client_files).path)
    accepting = server.server_context()
    connecting = client.client_context()
    peers = Peers(spiffe_ids=[spiffe_id("payment-service")])
    checking = client.client_context(servers=peers, check_hostname=False)
    bare_server = _bare(ssl.PROTOCOL_TLS_SERVER, room / "server")
    bare_client = _bare(ssl.PROTOCOL_TLS_CLIENT, room / "client")
    variants: dict[str, Callable[[], object]] = {"floor": lambda: _shaken(bare_server, bare_client)}
    if revoked is not None:
        listing = _bare(ssl.PROTOCOL_TLS_SERVER, room / "server", "ca.crl")
        variants["ssl with CRL"] = lambda: _shaken(listing, bare_client)
    variants["sdk"] = lambda: _shaken(accepting, connecting)
    variants["sdk, peers by SPIFFE ID"] = lambda: _shaken(accepting, checking)
    return Case(name, variants)


def _bare(protocol: int, path: Path, lists: str | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(path / "tls.crt", path / "tls.key")
    context.load_verify_locations(path / "ca.crt")
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    if lists is not None:
        context.load_verify_locations(path / lists)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def _shaken(accepting: ssl.SSLContext, connecting: ssl.SSLContext) -> None:
    """Connect both in memory; each verifies the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = accepting.wrap_bio(to_server, to_client, server_side=True)
    client = connecting.wrap_bio(to_client, to_server, server_hostname="localhost")
    waiting: list[ssl.SSLObject] = [client, server]
    for _ in range(8):
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        if not waiting:
            break
    if waiting or server.getpeercert(binary_form=True) is None or client.version() != "TLSv1.3":
        raise WrongAnswerError("no handshake")


def _files(pki: Pki, room: Path) -> Iterator[Case]:
    versions = [pki.files("order-service", revoked=10) for _ in range(3)]  # odd: two ways take turns with them
    mounted = Mounted(room, *versions)
    tls = MutualTLS(mounted.path)

    def nothing_new() -> None:
        if tls.check():
            raise WrongAnswerError("something is new")

    data = room / "..data"
    yield Case("look at mounted files", {"floor": lambda: os.stat(data), "sdk": nothing_new})  # noqa: PTH116

    def swapped() -> None:
        if not tls.check():
            raise WrongAnswerError("nothing is new")

    def by_hand() -> None:
        _read(room, versions[0])
        _bare(ssl.PROTOCOL_TLS_SERVER, room, "ca.crl")

    yield Case("take over a rotation", {"floor": by_hand, "sdk": swapped}, prepare=mounted.swap)


def _read(room: Path, names: Files) -> Files:
    return {name: (room / name).read_bytes() for name in names}
