"""An authority is read from a Secret that anybody may have edited: it is one, or a PkiError that quotes nothing."""

import traceback

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.pki.builders import hierarchy, key_for, leaf

CHAIN = certificates.encode_chain(hierarchy().intermediate.certificate)
KEY = keys.encode(hierarchy().intermediate.private_key, keys.KeyEncoding.PKCS8)


def loaded(chain, key):
    try:
        return certificates.load_issuer(chain, key)
    except PkiError:
        return None


@given(st.binary(max_size=300), st.binary(max_size=300))
@example(b"", b"")
def test_any_bytes_are_no_authority(chain, key):
    assert loaded(chain, key) is None
    assert loaded(chain, KEY) is None
    assert loaded(CHAIN, key) is None


@settings(max_examples=200)
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(CHAIN) - 1), st.integers(0, len(KEY) - 1), st.integers(1, 127))
def test_a_damaged_authority_has_the_key_of_its_certificate_or_is_none(place, other, change):
    chain, key = bytearray(CHAIN), bytearray(KEY)
    chain[place] ^= change
    key[other] ^= change
    for one, two in ((bytes(chain), KEY), (CHAIN, bytes(key))):
        issuer = loaded(one, two)
        assert issuer is None or certificates.key_matches(issuer.certificate, issuer.private_key)


@pytest.mark.parametrize("chain", [b"", CHAIN[:-40], b"super secret", certificates.encode_chain(leaf())])
def test_a_refusal_quotes_neither_certificate_nor_key(chain):
    key = keys.encode(key_for("leaf"), keys.KeyEncoding.PKCS8)
    with pytest.raises(PkiError) as caught:
        certificates.load_issuer(chain, key)
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    quoted = any(line in shown for text in (chain, key) for line in text.decode().splitlines() if len(line) > 8)
    assert not quoted
