"""No way of looking at a value shows the key in it."""

import copy
import json
import logging
import pickle
import traceback
from base64 import b64encode

import pytest

from serviceidentity.domain import hmac_ring, key_ring
from serviceidentity.domain.material import KeyMaterial, MalformedError, SecretContent
from tests.unit.domain.builders import T0, TRUST, authorities, domain, issued, view_of

RAW = b"0123456789abcdef0123456789abcdef"
FORMS = (RAW.decode(), RAW.hex(), b64encode(RAW).decode(), repr(RAW))
MATERIAL = KeyMaterial(RAW)
CONTENT = SecretContent.of("Opaque", {"key": RAW}, {"note": "x"})
HOLDERS = {
    "material": MATERIAL,
    "key": key_ring.RingKey("id", MATERIAL, key_ring.KeyState.ACTIVE, T0),
    "ring": key_ring.Ring((key_ring.RingKey("id", MATERIAL, key_ring.KeyState.ACTIVE, T0),)),
    "content": CONTENT,
    "view": view_of(CONTENT, "name"),
    "list": [MATERIAL],
    "dict": {"a": {"b": MATERIAL}},
}


def hidden(text: str) -> None:
    leaked = any(form in text for form in FORMS)
    assert not leaked


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_it_shows_in_no_text(holder, caplog):
    for text in (repr(holder), str(holder), f"{holder}", f"{holder!s:>60}", "%s %r" % (holder, holder), ascii(holder)):  # noqa: UP031
        hidden(text)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r", holder, holder)
    hidden(caplog.text)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_not_pickled_nor_copied(protocol):
    with pytest.raises(TypeError):
        pickle.dumps(MATERIAL, protocol)
    with pytest.raises(TypeError):
        pickle.dumps(HOLDERS["ring"], protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(HOLDERS["key"])


def test_it_is_no_json():
    with pytest.raises(TypeError):
        json.dumps({"key": MATERIAL})


def test_it_is_compared_by_value_and_given_out_on_demand():
    assert KeyMaterial(RAW) == MATERIAL
    assert MATERIAL.reveal() == RAW


def test_it_shows_in_no_traceback():
    try:
        raise_with(MATERIAL)
    except ValueError as error:
        hidden("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))


def raise_with(material):
    text = f"can't use {material}"
    raise ValueError(text)


@pytest.mark.parametrize("data", [{}, {"key": "!" + FORMS[0]}, {"key": FORMS[0] + "\xe9"}])
def test_an_unreadable_value_is_not_quoted(data):
    view = view_of(SecretContent("Opaque", data, {}), "name")
    with pytest.raises(MalformedError) as caught:
        view.value("key")
    hidden("".join(traceback.format_exception(caught.value)))


def test_an_unreadable_ring_is_not_quoted():
    text = hmac_ring.to_json(HOLDERS["ring"])
    with pytest.raises(MalformedError) as caught:
        hmac_ring.from_json(text)
    shown = "".join(traceback.format_exception(caught.value))
    hidden(shown)
    assert text.decode()[40:80] not in shown


def test_authorities_and_observations_show_no_private_key():
    seen = issued({"certificate": {"outputFormats": ["DER", "CombinedPEM"]}, "hmac": {}})
    for holder in (TRUST, *authorities(domain()), seen):
        text = repr(holder)
        assert "PRIVATE" not in text
        assert "LS0tLS1CRUdJTiBQUklWQVRF" not in text
        assert "PrivateKey object" not in text
