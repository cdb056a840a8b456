"""A service and its callers through every rotation: uvicorn and httpx, real handshakes on loopback."""

import asyncio
import ssl
from contextlib import contextmanager
from datetime import timedelta

import httpx
import pytest

from sdk.python.tests.ca import HOUR, Pki, now, pem, spiffe_id
from sdk.python.tests.mtls.servers import DEADLINE, bare_context, fingerprint, get, serving, shown_certificate
from sdk.python.tests.volumes import write_plain
from serviceidentity_sdk.mtls import ANYONE, ClientCertificate, MutualTLS, Peers, Revocation
from serviceidentity_sdk.mtls.client import AsyncMutualTLSTransport, MutualTLSTransport

ORDER, PAYMENT = spiffe_id("order-service"), spiffe_id("payment-service")
REFUSED = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


@pytest.fixture
def refused(caplog):
    """A connection that the server refuses in the handshake, and what it logs about it. All that the client learns is that
    the connection was closed: asyncio drops the alert."""

    @contextmanager
    def refusing(reason):
        caplog.clear()
        with pytest.raises(REFUSED):
            yield
        assert f"handshake refused: {reason}" in caplog.text

    return refusing


def client(tls, **options):
    return httpx.Client(transport=MutualTLSTransport(tls, **options), timeout=DEADLINE)


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_the_application_sees_who_calls(pki, mounted, http):
    caller = pki.leaf("payment-service")
    _, server = mounted(pki.leaf("order-service").files())
    _, calling = mounted(caller.files())
    with serving(server, allowed=Peers(spiffe_ids=[PAYMENT]), http=http) as port, client(calling) as http_client:
        answer = http_client.get(f"https://localhost:{port}/")
    seen = answer.json()
    assert answer.status_code == 200
    assert seen["tls_version"] == 0x0304 and seen["principal"] == "payment-service"
    assert seen["peer"] == {
        "common_name": "payment-service",
        "spiffe_id": PAYMENT,
        "dns_names": "('localhost',)",
        "serial_number": caller.serial,
        "issuer": "CN=Shop Intermediate",
        "not_before": str(caller.certificate.not_valid_before_utc),
        "not_after": str(caller.certificate.not_valid_after_utc),
        "fingerprint": fingerprint(caller.certificate),
    }


def test_certificates_and_roots_are_renewed_under_traffic_and_no_request_fails(mounted):
    """Both sides change their certificates six times, root included, while eight callers keep their connections busy."""
    old, new = Pki("Old"), Pki("New")
    both = old.roots + new.roots
    server_volume, server = mounted(old.leaf("order-service").files())
    client_volume, calling = mounted(old.leaf("payment-service").files())
    done, seen = [], set()

    async def call(http_client, port, stop):
        while not stop.is_set():
            answer = await http_client.get(f"https://localhost:{port}/")
            done.append(answer.status_code)
            seen.add(answer.json()["peer"]["fingerprint"])

    async def main(port):
        stop, shown, used = asyncio.Event(), [], []
        transport = AsyncMutualTLSTransport(calling, servers=Peers(spiffe_ids=[ORDER]))
        async with httpx.AsyncClient(transport=transport, timeout=DEADLINE) as http_client:
            callers = [asyncio.create_task(call(http_client, port, stop)) for _ in range(8)]
            steps = [
                (old, old.roots), (old, both), (old, both), (new, both), (new, new.roots), (new, new.roots),
            ]  # fmt: skip
            for signer, roots in steps:
                service, caller = signer.leaf("order-service"), signer.leaf("payment-service")
                used.append(fingerprint(caller.certificate))
                client_volume.swap(caller.files(roots=roots))
                server_volume.swap(service.files(roots=roots))
                await asyncio.gather(asyncio.to_thread(calling.check), asyncio.to_thread(server.check))
                certificate = await asyncio.to_thread(shown_certificate, port, calling.client_context())
                shown.append(certificate == fingerprint(service.certificate))
                target = len(done) + 50
                async with asyncio.timeout(DEADLINE):
                    while len(done) < target and not any(caller.done() for caller in callers):
                        await asyncio.sleep(0.005)
            stop.set()
            await asyncio.gather(*callers)
            return shown, used

    with serving(server, allowed=Peers(spiffe_ids=[PAYMENT])) as port:
        shown, used = asyncio.run(main(port))
    assert set(done) == {200} and len(done) >= 300
    assert shown == [True] * 6
    assert set(used) <= seen  # each renewed client certificate was in use


def test_a_kept_alive_connection_goes_on_while_new_handshakes_show_the_new_certificate(pki, mounted):
    first, second = pki.leaf("order-service"), pki.leaf("order-service")
    volume, server = mounted(first.files())
    _, calling = mounted(pki.leaf("payment-service").files())
    with serving(server) as port, httpx.Client(verify=calling.client_context(), timeout=DEADLINE) as kept:

        def connection():
            with kept.stream("GET", f"https://localhost:{port}/") as answer:
                answer.read()
                return answer.extensions["network_stream"].get_extra_info("ssl_object")

        before = connection()
        volume.swap(second.files())
        assert server.check()
        assert shown_certificate(port, calling.client_context()) == fingerprint(second.certificate)
        assert connection() is before


def test_a_response_under_way_is_read_to_its_end_on_its_old_connection(pki, mounted):
    volume, calling = mounted(pki.leaf("payment-service").files())
    _, server = mounted(pki.leaf("order-service").files())
    release = asyncio.Event()

    async def in_two_parts(scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        fingerprint_ = scope["state"]["peer"].fingerprint.encode()
        await send({"type": "http.response.body", "body": fingerprint_ + b" ", "more_body": True})
        if scope["path"] == "/slow":
            while not release.is_set():
                await asyncio.sleep(0.005)
        await send({"type": "http.response.body", "body": b"end"})

    async def main(port):
        transport = AsyncMutualTLSTransport(calling)
        async with httpx.AsyncClient(transport=transport, timeout=DEADLINE) as http_client:
            async with http_client.stream("GET", f"https://localhost:{port}/slow") as slow:
                volume.swap(pki.leaf("payment-service").files())
                assert calling.check()
                other = (await http_client.get(f"https://localhost:{port}/")).text
                assert len(transport._pools._draining) == 1
                release.set()
                text = "".join([part async for part in slow.aiter_text()])
            assert transport._pools._draining == []
        return text, other

    with serving(server, in_two_parts) as port:
        slow, other = asyncio.run(main(port))
    assert slow.endswith("end") and other.endswith("end")
    assert slow != other


def test_a_client_without_threads_moves_too(pki, mounted):
    volume, calling = mounted(pki.leaf("payment-service").files())
    _, server = mounted(pki.leaf("order-service").files())
    with serving(server) as port, client(calling) as http_client:
        serials = []
        for _ in range(3):
            leaf = pki.leaf("payment-service")
            volume.swap(leaf.files())
            calling.check()
            for _ in range(2):
                answer = http_client.get(f"https://localhost:{port}/").json()["peer"]["serial_number"]
                serials.append(answer == leaf.serial)
        assert serials == [True] * 6
        assert http_client._transport._pools._draining == []


# Who is refused, where, and how.


def test_without_a_certificate_the_handshake_is_refused(pki, mounted, refused):
    _, server = mounted(pki.leaf().files())
    with serving(server) as port, refused("peer did not return a certificate"):
        get(port, bare_context(pki.roots))


def test_without_a_certificate_401_where_it_is_optional_and_probes_pass(pki, mounted):
    _, server = mounted(pki.leaf().files())
    options = {"client_certificate": ClientCertificate.OPTIONAL, "exempt": ["/healthz"]}
    with serving(server, **options) as port:
        answer = get(port, bare_context(pki.roots))
        probe = get(port, bare_context(pki.roots), "/healthz")
        beside = get(port, bare_context(pki.roots), "/healthz/x")
    assert (answer.status_code, answer.json()) == (401, {"error": "Client certificate required"})
    assert (probe.status_code, probe.json()["peer"], beside.status_code) == (200, None, 401)


@pytest.mark.parametrize("client_certificate", ClientCertificate)
def test_another_authority_is_refused_in_the_handshake(pki, mounted, refused, tmp_path, client_certificate):
    _, server = mounted(pki.leaf().files())
    write_plain(tmp_path / "x", Pki("Shop").leaf().files())  # the same names
    context = bare_context(pki.roots, tmp_path / "x" / "tls.crt", tmp_path / "x" / "tls.key")
    with serving(server, client_certificate=client_certificate) as port:
        with refused("unable to get local issuer certificate"):
            get(port, context)


def test_a_certificate_that_has_ended_is_refused_in_the_handshake(pki, mounted, refused, tmp_path):
    _, server = mounted(pki.leaf().files())
    write_plain(tmp_path / "x", pki.leaf(end=now() - timedelta(minutes=1)).files())
    context = bare_context(pki.roots, tmp_path / "x" / "tls.crt", tmp_path / "x" / "tls.key")
    with serving(server) as port, refused("certificate has expired"):
        get(port, context)


def test_tls_1_2_is_refused(pki, mounted, refused):
    _, server = mounted(pki.leaf().files())
    context = bare_context(pki.roots)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(server) as port, refused("unsupported protocol"):
        get(port, context)


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        (Peers(spiffe_ids=[ORDER]), 403),
        (Peers(), 403),
        (Peers(common_names=["order-service"]), 403),
        (Peers(spiffe_ids=[ORDER, PAYMENT]), 200),
        (Peers(common_names=["payment-service"]), 200),
        (ANYONE, 200),
    ],
    ids=repr,
)
def test_only_allowed_callers_pass(pki, mounted, allowed, status):
    _, server = mounted(pki.leaf("order-service").files())
    _, calling = mounted(pki.leaf("payment-service").files())
    with serving(server, allowed=allowed) as port, client(calling) as http_client:
        answer = http_client.get(f"https://localhost:{port}/")
    assert answer.status_code == status
    if status == 403:
        assert answer.json() == {"error": "Caller not allowed"}


@pytest.mark.parametrize("revocation", Revocation)
def test_a_revoked_certificate_is_refused_and_the_others_pass(pki, mounted, refused, revocation):
    stolen, good = pki.leaf("payment-service"), pki.leaf("payment-service")
    _, server = mounted(pki.leaf().files(lists=pki.lists(stolen)), revocation=revocation)
    _, thief = mounted(stolen.files())
    _, caller = mounted(good.files())
    with serving(server) as port:
        with refused("certificate revoked"):
            get(port, thief.client_context())
        assert get(port, caller.client_context()).status_code == 200


def test_a_server_that_was_revoked_is_refused_by_clients(pki, mounted):
    stolen = pki.leaf()
    _, server = mounted(stolen.files())
    _, calling = mounted(pki.leaf("payment-service").files(lists=pki.lists(stolen)))
    with serving(server) as port, client(calling) as http_client, pytest.raises(httpx.ConnectError, match="revoked"):
        http_client.get(f"https://localhost:{port}/")


def test_a_revoked_intermediate_is_refused_when_chains_are_looked_up(mounted, refused):
    pki = Pki()
    lists = [pki.intermediate.revocation_list(), pki.root.revocation_list(pki.intermediate.certificate)]
    files = pki.leaf().files(lists=lists)
    _, leaves = mounted(files)
    _, chains = mounted(files, revocation=Revocation.CHAIN)
    _, calling = mounted(pki.leaf("payment-service").files())
    with serving(leaves) as port:
        assert get(port, calling.client_context()).status_code == 200
    with serving(chains) as port, refused("certificate revoked"):
        get(port, calling.client_context())


@pytest.mark.parametrize(
    ("which", "reason"), [("ended", "CRL has expired"), ("of another authority", "unable to get certificate CRL")]
)
def test_without_a_list_that_counts_nobody_passes(pki, mounted, refused, which, reason):
    """Fail closed: whether a certificate was revoked can't be known."""
    lists = pki.lists(end=now() - HOUR) if which == "ended" else Pki("Other").lists()
    _, server = mounted(pki.leaf().files(lists=lists))
    _, calling = mounted(pki.leaf("payment-service").files())
    with serving(server) as port, refused(reason):
        get(port, calling.client_context())


def test_a_list_that_appears_under_way_is_honoured_by_the_next_handshake(pki, mounted, refused):
    stolen = pki.leaf("payment-service")
    volume, server = mounted(pki.leaf().files())
    _, thief = mounted(stolen.files())
    with serving(server) as port:
        assert get(port, thief.client_context()).status_code == 200
        volume.swap(pki.leaf().files(lists=pki.lists(stolen)))
        assert server.check()
        with refused("certificate revoked"):
            get(port, thief.client_context())


@pytest.mark.parametrize("what", ["revoked", "root removed", "list ended", "certificate ended"])
def test_a_connection_that_is_open_ends_with_the_trust_in_its_peer(pki, mounted, what):
    """The handshake was long ago; the next request is refused, and the connection closed."""
    stolen, time = pki.leaf("payment-service"), [now()]
    volume, server = mounted(pki.leaf().files(lists=pki.lists(end=now() + 2 * HOUR)), clock=now)
    _, thief = mounted(stolen.files())
    with serving(server, clock=lambda: time[0]) as port:
        with httpx.Client(verify=thief.client_context(), timeout=DEADLINE) as kept:
            url = f"https://localhost:{port}/"
            assert kept.get(url).status_code == 200
            time[0] += timedelta(minutes=1)
            assert kept.get(url).status_code == 200
            if what == "revoked":
                volume.swap(pki.leaf().files(lists=pki.lists(stolen)))
            elif what == "root removed":
                volume.swap(Pki("Next").leaf().files(lists=pki.lists()))
            else:
                time[0] += 3 * HOUR if what == "list ended" else 25 * HOUR
            server.check()
            answer = kept.get(url)
    assert (answer.status_code, answer.json()) == (401, {"error": "Client certificate not trusted"})
    assert answer.headers["connection"] == "close"


def test_a_connection_whose_root_was_issued_anew_for_its_key_goes_on(mounted):
    pki = Pki()
    volume, server = mounted(pki.leaf().files())
    _, calling = mounted(pki.leaf("payment-service").files())
    again = type(pki.root)("Shop Root", key=pki.root.key).certificate
    with serving(server) as port, httpx.Client(verify=calling.client_context(), timeout=DEADLINE) as kept:
        assert kept.get(f"https://localhost:{port}/").status_code == 200
        volume.swap(pki.leaf().files(roots=pem(again)))
        assert server.check()
        assert kept.get(f"https://localhost:{port}/").status_code == 200


def test_each_handshake_shows_a_certificate_none_is_resumed(pki, mounted):
    _, server = mounted(pki.leaf().files())
    _, calling = mounted(pki.leaf("payment-service").files())
    context = calling.client_context().newest
    with serving(server) as port, httpx.Client(verify=context, timeout=DEADLINE) as http_client:
        with http_client.stream("GET", f"https://localhost:{port}/") as answer:
            answer.read()
            assert answer.extensions["network_stream"].get_extra_info("ssl_object").session.has_ticket is False


# Whom a client talks to.


def test_a_server_of_another_name_is_refused(pki, mounted):
    _, server = mounted(pki.leaf(dns=["other.shop.svc"]).files())
    _, calling = mounted(pki.leaf("payment-service").files())
    with serving(server) as port, client(calling) as http_client:
        with pytest.raises(httpx.ConnectError, match="(?i)hostname mismatch"):
            http_client.get(f"https://localhost:{port}/")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_that_is_not_asked_for_gets_no_byte_of_the_request(pki, mounted, kind):
    requests = []

    async def app(scope, _receive, _send):
        requests.append(scope["path"])

    _, server = mounted(pki.leaf("order-service").files())
    _, calling = mounted(pki.leaf("payment-service").files())
    with serving(server, app) as port, pytest.raises(httpx.ConnectError, match="not one that may answer"):
        if kind == "sync":
            with client(calling, servers=Peers(spiffe_ids=[PAYMENT])) as http_client:
                http_client.get(f"https://localhost:{port}/")
        else:

            async def main():
                transport = AsyncMutualTLSTransport(calling, servers=Peers(spiffe_ids=[PAYMENT]))
                async with httpx.AsyncClient(transport=transport, timeout=DEADLINE) as http_client:
                    await http_client.get(f"https://localhost:{port}/")

            asyncio.run(main())
    assert requests == []


def test_a_spiffe_id_may_stand_in_for_the_name(pki, mounted):
    _, server = mounted(pki.leaf("order-service", dns=[]).files())
    _, calling = mounted(pki.leaf("payment-service").files())
    with serving(server) as port:
        with client(calling, servers=Peers(spiffe_ids=[ORDER]), check_hostname=False) as http_client:
            assert http_client.get(f"https://127.0.0.1:{port}/").status_code == 200
    with pytest.raises(ValueError, match="servers"):
        client(calling, check_hostname=False)


def test_roots_and_lists_come_from_the_trust_bundle_when_it_is_mounted(pki, mounted, refused):
    stolen = pki.leaf("payment-service")
    alone = {name: content for name, content in pki.leaf().files().items() if name != "ca.crt"}
    bundle, _ = mounted(pki.leaf().files())  # any volume will do: only its ca.* files are read
    volume, _ = mounted(pki.leaf().files())
    volume.swap(alone)
    server = MutualTLS(volume.path, bundle.path)
    _, thief = mounted(stolen.files())
    with serving(server) as port:
        assert get(port, thief.client_context()).status_code == 200
        bundle.swap({"ca.crt": pki.roots, "ca.crl": pem(*pki.lists(stolen))})
        assert server.check()
        with refused("certificate revoked"):
            get(port, thief.client_context())
