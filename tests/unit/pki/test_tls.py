"""A mutual TLS 1.3 handshake in memory, with files as a service finds them in its Secret. Here the clock is real."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest

from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Validity
from tests.unit.pki.builders import ED25519, P256, P384, RSA, SPIFFE_ID, hierarchy, key_for, leaf, title

BEGINS = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)


def context(folder, side, profile, label="", trusted="", expired=False):
    """One end: tls.crt is leaf then intermediate, ca.crt the root."""
    tiers, key = hierarchy(profile, begins=BEGINS, label=label), key_for("leaf", profile)
    validity = Validity(BEGINS, BEGINS + timedelta(minutes=1 if expired else 60))
    chain = certificates.encode_chain(leaf(tiers.intermediate, key, validity=validity), *tiers.intermediate.chain)
    where = folder / (side.name + label)
    where.mkdir()
    (where / "tls.crt").write_bytes(chain)
    (where / "tls.key").write_bytes(keys.encode(key, keys.KeyEncoding.PKCS8))
    roots = hierarchy(profile, begins=BEGINS, label=trusted).root.certificate
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=certificates.encode_chain(roots).decode())
    made.load_cert_chain(where / "tls.crt", where / "tls.key")
    return made


def shake_hands(client_context, server_context, name="order-service.shop.svc"):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return client, server
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize("profile", [P256, P384, RSA, ED25519], ids=title)
def test_both_ends_prove_who_they_are(tmp_path, profile):
    client, server = shake_hands(
        context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, profile), context(tmp_path, ssl.PROTOCOL_TLS_SERVER, profile)
    )
    assert client.version() == server.version() == "TLSv1.3"
    for end in (client, server):
        peer = end.getpeercert()
        assert ("URI", SPIFFE_ID) in peer["subjectAltName"]
        assert (("commonName", "order-service"),) in peer["subject"]


def test_a_client_of_another_trust_domain_is_refused(tmp_path):
    client = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, P256, label="-other")
    server = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, P256)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, server)


def test_a_server_refuses_a_client_that_it_does_not_know(tmp_path):
    client = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, P256, label="-other", trusted="")
    server = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, P256)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, server)


def test_a_server_by_another_name_is_refused(tmp_path):
    client, server = (context(tmp_path, side, P256) for side in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(client, server, "payment-service.shop.svc")


def test_an_expired_leaf_is_refused(tmp_path):
    client = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, P256)
    server = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, P256, expired=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(client, server)
