"""What is mounted is checked to belong together before a handshake uses it."""

import logging
import os
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from sdk.python.tests.ca import HOUR, Pki, key_pem, now, pem
from sdk.python.tests.volumes import write_plain
from serviceidentity_sdk.credentials import CredentialError
from serviceidentity_sdk.mtls import MutualTLS, contexts

GOOD = Pki()
LEAF, OTHER = GOOD.leaf(), GOOD.leaf("payment-service")
FILES = LEAF.files(lists=GOOD.lists())
ENCRYPTED = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))

BAD = {
    "no certificate": ({"tls.crt": None}, "has no file tls.crt"),
    "no key": ({"tls.key": None}, "has no file tls.key"),
    "no roots": ({"ca.crt": None}, "has no file ca.crt"),
    "empty certificate": ({"tls.crt": b""}, "tls.crt is empty"),
    "not PEM": ({"tls.crt": b"hunter2"}, "tls.crt can't be read"),
    "damaged certificate": ({"tls.crt": FILES["tls.crt"].replace(b"MII", b"MIJ", 1)}, "tls.crt can't be read"),
    "damaged key": ({"tls.key": FILES["tls.key"][:60]}, "tls.key can't be read"),
    "encrypted key": ({"tls.key": ENCRYPTED}, "tls.key can't be read"),
    "another key": ({"tls.key": key_pem(OTHER.key)}, "tls.key is not the key of the certificate"),
    "roots that are none": ({"ca.crt": b"-----BEGIN CERTIFICATE-----"}, "ca.crt can't be read"),
    "list that is none": ({"ca.crl": b"hunter2"}, "ca.crl can't be read"),
    "damaged list": ({"ca.crl": FILES["ca.crl"].replace(b"-\nMI", b"-\nMJ", 1)}, "ca.crl can't be read"),
    "cut list": ({"ca.crl": FILES["ca.crl"][:-30]}, "ca.crl can't be read"),
    "ended": (GOOD.leaf(end=now() - timedelta(minutes=1)).files(), "counts from"),
    "not begun": (GOOD.leaf(begin=now() + HOUR).files(), "counts from"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_service_with_bad_files_does_not_start_and_one_that_runs_keeps_the_good_ones(mounted, case, caplog):
    changes, reason = BAD[case]
    files = {name: content for name, content in {**FILES, **changes}.items() if content is not None}
    with pytest.raises(CredentialError, match=reason):
        mounted(files)
    volume, tls = mounted(FILES)
    before = tls.current
    volume.swap(files)
    assert tls.check() is False and tls.current is before
    assert reason in str(tls.state.error) and reason in caplog.text
    assert "hunter2" not in caplog.text and "PRIVATE" not in caplog.text
    volume.swap(OTHER.files(lists=GOOD.lists()))
    assert tls.check() is True
    assert (tls.current.identity.common_name, tls.state.error) == ("payment-service", None)


def test_what_openssl_refuses_is_not_taken_over(mounted, monkeypatch):
    """A policy of the machine may ask for longer keys than we do."""
    volume, tls = mounted(FILES)
    real = ssl.SSLContext.load_cert_chain

    def refuse(context, *args, **options):
        raise ssl.SSLError(1, "EE_KEY_TOO_SMALL hunter2")

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", refuse)
    volume.swap(OTHER.files())
    assert tls.check() is False
    assert str(tls.state.error) == "OpenSSL refuses the mounted certificate, key, roots or revocation lists"
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", real)
    assert tls.check() is True


def test_a_key_and_a_certificate_of_two_versions_are_never_in_use(tmp_path):
    """A plain directory, file after file: as a developer copies them."""
    write_plain(tmp_path / "v", FILES)
    tls = MutualTLS(tmp_path / "v")
    for name in ("tls.key", "tls.crt"):
        write_plain(tmp_path / "v", {name: OTHER.files()[name]})
        tls.check()
        used = tls.current
        assert (used.key.reveal(), used.chain) in {
            (leaf.files()["tls.key"], leaf.files()["tls.crt"]) for leaf in (LEAF, OTHER)
        }
    assert tls.current.identity.common_name == "payment-service"


def test_a_list_that_goes_away_stays_in_force(mounted, caplog):
    volume, tls = mounted(FILES)
    volume.swap(OTHER.files())
    with caplog.at_level(logging.WARNING):
        assert tls.check() is True
    assert tls.current.identity.common_name == "payment-service"
    assert tls.current.lists == FILES["ca.crl"]
    assert "ca.crl is gone" in caplog.text
    assert tls.server_context().newest.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF


def test_lists_can_be_required(mounted):
    with pytest.raises(CredentialError, match="revocation lists are required"):
        mounted(LEAF.files(), lists_required=True)
    mounted(FILES, lists_required=True)


def test_a_list_that_has_ended_is_taken_over_because_handshakes_refuse_it(mounted):
    _, tls = mounted(LEAF.files(lists=GOOD.lists(end=now() - HOUR)))
    assert tls.current.lists is not None


def test_a_certificate_that_begins_soon_is_used_when_it_begins(mounted):
    time = [now()]
    volume, tls = mounted(FILES, clock=lambda: time[0])
    volume.swap(GOOD.leaf("payment-service", begin=time[0] + HOUR).files(lists=GOOD.lists()))
    assert tls.check() is False
    time[0] += HOUR
    assert tls.check() is True and tls.current.identity.common_name == "payment-service"


def test_several_roots_and_text_between_them_are_read(mounted):
    roots = b"# the old one\n" + GOOD.roots + b"\n# the new one\n" + Pki("Next").roots
    _, tls = mounted(LEAF.files(roots=roots))
    assert tls.server_context().newest.cert_store_stats()["x509_ca"] == 2


def test_the_key_is_in_no_file_and_no_repr(mounted, monkeypatch):
    _, tls = mounted(FILES)
    paths = []
    real = ssl.SSLContext.load_cert_chain
    monkeypatch.setattr(
        ssl.SSLContext, "load_cert_chain", lambda self, path, **more: (paths.append(path), real(self, path, **more))
    )
    tls.server_context()
    assert all(path.startswith("/proc/self/fd/") for path in paths) and paths
    assert "PRIVATE" not in repr(tls.current) and "<redacted>" in repr(tls.current)


def test_without_memory_files_a_private_one_is_used_and_removed(mounted, monkeypatch, tmp_path):
    _, tls = mounted(FILES)
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contexts._as_file(b"secret") as path:
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert not Path(path).exists()
    assert tls.server_context().newest.cert_store_stats()["crl"] == 2


def test_a_context_is_the_same_until_the_material_changes_and_keeps_its_protocols(mounted):
    volume, tls = mounted(FILES)
    live = tls.client_context()
    live.set_alpn_protocols(["http/1.1"])
    first = live.newest
    assert live.newest is first
    volume.swap(OTHER.files(lists=GOOD.lists()))
    tls.check()
    assert live.newest is not first
    assert live.verify_mode == ssl.CERT_REQUIRED and not live.get_ca_certs()  # by itself it lets nobody in


def test_contexts_are_tls_1_3_and_verify(mounted):
    _, tls = mounted(FILES)
    for context in (tls.server_context().newest, tls.client_context().newest):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    assert tls.client_context().newest.check_hostname is True


def test_a_list_signed_by_another_key_of_the_same_name_does_not_count(mounted):
    fake = Pki()  # the same names, other keys
    _, tls = mounted(LEAF.files(lists=fake.lists()))
    chain = (LEAF.certificate, GOOD.intermediate.certificate, GOOD.root.certificate)
    assert tls.trust.refusal("key", chain, now()) == "its authority has no revocation list"


def test_a_chain_without_its_root_is_completed(mounted):
    _, tls = mounted(FILES)
    chain = (LEAF.certificate, GOOD.intermediate.certificate)
    assert tls.trust.refusal("a", chain, now()) is None
    assert tls.trust.refusal("b", chain[:1], now()) == "its root is not trusted any more"


def test_a_chain_that_was_good_is_looked_at_again_when_the_lists_change(mounted):
    volume, tls = mounted(FILES)
    chain = (OTHER.certificate, GOOD.intermediate.certificate, GOOD.root.certificate)
    assert tls.trust.refusal("key", chain, now()) is None
    volume.swap({**FILES, "ca.crl": pem(*GOOD.lists(OTHER))})
    tls.check()
    assert tls.trust.refusal("key", chain, now()) == "the certificate is revoked"
