import ssl

import pytest

from serviceidentity.domain.pki import keys
from tests.unit.pki.hierarchy import PROFILES, hierarchy, key_of


def _context(purpose: int, chain: bytes, roots: bytes, key: bytes, directory) -> ssl.SSLContext:
    context = ssl.SSLContext(purpose)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=roots.decode())
    (directory / "chain.pem").write_bytes(chain)
    (directory / "key.pem").write_bytes(key)
    context.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    return context


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.algorithm}-{p.size}")
def test_both_sides_of_a_tls_1_3_handshake_accept_each_other(profile, tmp_path):
    tree = hierarchy(profile)
    chain, roots = tree.pem(tree.leaf(profile))
    key = keys.encode(key_of(profile), keys.KeyEncoding.PKCS8)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_context = _context(ssl.PROTOCOL_TLS_SERVER, chain, roots, key, tmp_path)
    client_context = _context(ssl.PROTOCOL_TLS_CLIENT, chain, roots, key, tmp_path)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname="order-service.shop.svc")
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
    assert len(done) == 2
    peer = server.getpeercert() or {}
    assert ("URI", "spiffe://example.org/ns/shop/sa/order-service") in peer["subjectAltName"]
