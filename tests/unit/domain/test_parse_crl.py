"""What a trust domain says of its revocation lists."""

from datetime import timedelta

import pytest

from serviceidentity.domain.model import CrlSpec
from serviceidentity.errors import InvalidSpecError
from tests.unit.domain.builders import HOUR, T0, domain


def test_without_a_word_there_are_defaults_and_no_lists():
    assert domain().crl == CrlSpec(always=False, duration=72 * HOUR, renew_before=48 * HOUR)
    assert domain(crl={}).crl == CrlSpec(always=True, duration=72 * HOUR, renew_before=48 * HOUR)
    assert domain(crl={"duration": "30s"}).crl == CrlSpec(True, timedelta(seconds=30), timedelta(seconds=20))


def test_revoked_certificates_are_read_as_people_write_them():
    (full, bare) = domain(
        revokedCertificates=[
            {"serialNumber": "0A:1B", "reason": "superseded", "revocationTime": "2026-01-01T13:00:00+01:00",
             "issuerFingerprint": "AB:CD"},
            {"serialNumber": "a1b"},
        ]
    ).revoked  # fmt: skip
    assert (full.serial_number, full.reason, full.revoked_at, full.issuer) == ("0a1b", "superseded", T0, "abcd")
    assert (bare.serial_number, bare.reason, bare.revoked_at, bare.issuer) == ("0a1b", "unspecified", None, None)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"crl": {"duration": "9s"}}, "spec.crl.duration"),
        ({"crl": {"duration": "1h", "renewBefore": "1h"}}, "spec.crl.renewBefore"),
        ({"crl": {"renewBefore": "x"}}, "spec.crl.renewBefore"),
        ({"crl": []}, "spec.crl"),
        ({"revokedCertificates": [{}]}, "spec.revokedCertificates[0].serialNumber"),
        (
            {"revokedCertificates": [{"serialNumber": "0a"}, {"serialNumber": "0"}]},
            "spec.revokedCertificates[1].serialNumber",
        ),
        (
            {"revokedCertificates": [{"serialNumber": "0a", "reason": "certificateHold"}]},
            "spec.revokedCertificates[0].reason",
        ),
        (
            {"revokedCertificates": [{"serialNumber": "0a", "revocationTime": "x"}]},
            "spec.revokedCertificates[0].revocationTime",
        ),
        (
            {"revokedCertificates": [{"serialNumber": "0a", "revocationTime": "1949-12-31T23:59:59Z"}]},
            "spec.revokedCertificates[0].revocationTime",
        ),
    ],
)
def test_what_cant_be_done_names_its_field(spec, path):
    with pytest.raises(InvalidSpecError) as found:
        domain(**spec)
    assert found.value.path == path
