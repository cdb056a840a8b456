"""What OpenSSL makes is what companies bring along."""

import pytest

from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.paths import Path, first_defect, path_to_root
from tests.unit.pki.companies import T0, company


@pytest.fixture
def made(openssl, tmp_path):
    """Make a root and an intermediate with OpenSSL's command, each signed with a digest."""

    def make(root_digest, digest):
        names = {name: tmp_path / name for name in ("root.key", "root.crt", "lower.key", "lower.csr", "lower.crt")}
        new = ("req", "-newkey", "rsa:2048", "-nodes", "-batch")
        authority = ("-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl(*new, "-x509", f"-{root_digest}", "-days", "40000", "-subj", "/CN=Root", *authority,
                "-keyout", names["root.key"], "-out", names["root.crt"])  # fmt: skip
        openssl(*new, "-subj", "/CN=Lower", *authority, "-keyout", names["lower.key"], "-out", names["lower.csr"])
        openssl("x509", "-req", "-in", names["lower.csr"], "-CA", names["root.crt"], "-CAkey", names["root.key"],
                f"-{digest}", "-days", "40000", "-copy_extensions", "copyall", "-out", names["lower.crt"])  # fmt: skip
        (root,), (lower,) = (certificates.load_chain(names[name].read_bytes()) for name in ("root.crt", "lower.crt"))
        now = lower.not_valid_before_utc
        return Path(path_to_root(lower, [root], now), 0), now

    return make


def test_an_intermediate_made_by_openssl_is_in_order(made):
    path, now = made("sha256", "sha384")
    assert len(path.certificates) == 2
    assert first_defect(path, now) is None


@pytest.mark.parametrize(
    ("digests", "who"), [(("sha1", "sha256"), "certificate 2"), (("sha256", "sha1"), "certificate")]
)
def test_a_signature_with_a_broken_hash_is_refused(made, digests, who):
    path, now = made(*digests)
    defect = first_defect(path, now)
    assert defect.reason == "WeakSignature"
    assert who in defect.message


def test_a_path_stops_where_nothing_signed_it_and_never_goes_in_circles():
    root, stranger = company("Company root"), company("Company root")
    one = company("One", root)
    assert path_to_root(one.certificate, [stranger.certificate], T0) == (one.certificate,)
    assert not Path((one.certificate,), 0).is_complete
    two = company("Company root", one, key=root.key)  # the root's key, certified by what it signed
    assert path_to_root(one.certificate, [two.certificate], T0) == (one.certificate, two.certificate)
    assert path_to_root(one.certificate, [two.certificate, root.certificate], T0) == (one.certificate, root.certificate)


def test_a_path_has_a_limit():
    chain = [company("Company root")]
    for number in range(12):
        chain.append(company(f"Company {number}", chain[-1]))
    found = path_to_root(chain[-1].certificate, [one.certificate for one in chain], T0)
    assert len(found) == 8
    assert first_defect(Path(found, 0), T0).reason == "IncompleteChain"
