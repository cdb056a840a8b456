"""What the operator puts into a certificate's Secret and a trust bundle is what the SDK reads, of every kind of key."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest

from serviceidentity.domain.pki import certificates, crl, keys
from serviceidentity.domain.pki.certificates import Validity
from serviceidentity.domain.pki.crl import RevocationList, RevokedCertificate
from serviceidentity_sdk.mtls import MutualTLS, Peers, Revocation
from tests.unit.pki.builders import ED25519, P256, P384, RSA, SPIFFE_ID, hierarchy, key_for, leaf, title
from tests.unit.pki.test_tls import BEGINS, shake_hands

ENDS = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


def mounted(folder, profile, *revoked):
    """Read a service's Secret and a trust bundle whose lists have these serial numbers."""
    tiers, key = hierarchy(profile, begins=BEGINS), key_for("leaf", profile)
    certificate = leaf(tiers.intermediate, key, validity=Validity(BEGINS, ENDS))
    serials = revoked if revoked != ("its own",) else (certificates.serial_number(certificate),)
    entries = tuple(RevokedCertificate(serial, BEGINS, "keyCompromise") for serial in serials)
    lists = [
        crl.issue(tiers.intermediate, RevocationList(1, BEGINS, ENDS, entries)),
        crl.issue(tiers.root, RevocationList(1, BEGINS, ENDS, ())),
    ]
    files = {
        "tls/tls.crt": certificates.encode_chain(certificate, *tiers.intermediate.chain),
        "tls/tls.key": keys.encode(key, keys.KeyEncoding.PKCS8),
        "trust/ca.crt": certificates.encode_chain(tiers.root.certificate),
        "trust/ca.crl": b"".join(lists),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return certificate, MutualTLS(folder / "tls", folder / "trust", revocation=Revocation.CHAIN)


@pytest.mark.usefixtures("all_keys")
@pytest.mark.parametrize("profile", [P256, P384, RSA, ED25519], ids=title)
def test_the_sdk_shakes_hands_with_what_was_issued(tmp_path, profile):
    certificate, tls = mounted(tmp_path, profile, "0a")
    assert tls.current.identity.spiffe_id == SPIFFE_ID
    assert tls.current.identity.serial_number == certificates.serial_number(certificate)
    servers = Peers(spiffe_ids=[SPIFFE_ID])
    client, server = shake_hands(tls.client_context(servers=servers), tls.server_context())
    assert client.version() == server.version() == "TLSv1.3"
    tiers = hierarchy(profile, begins=BEGINS)
    chain = (certificate, tiers.intermediate.certificate, tiers.root.certificate)
    assert tls.trust.refusal("chain", chain, datetime.now(UTC)) is None


@pytest.mark.usefixtures("all_keys")
@pytest.mark.parametrize("profile", [P256, P384, RSA, ED25519], ids=title)
def test_the_sdk_refuses_what_is_on_a_list_of_the_operator(tmp_path, profile):
    certificate, tls = mounted(tmp_path, profile, "its own")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(tls.client_context(), tls.server_context())
    tiers = hierarchy(profile, begins=BEGINS)
    chain = (certificate, tiers.intermediate.certificate, tiers.root.certificate)
    assert tls.trust.refusal("chain", chain, datetime.now(UTC)) == "the certificate is revoked"
