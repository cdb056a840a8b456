"""JSON.stringify(JSON.parse(text)), compared with a real Node."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity_sdk.requests.ecmascript import DEEPEST, NotJsonError, canonical, canonical_and_rounded, stringify

from .bodies import NASTY, NO_JSON, NUMBERS


def ours(text):
    try:
        return canonical(text).decode()
    except NotJsonError:
        return None


def test_nasty_bodies_are_written_as_node_writes_them(node):
    assert len(NASTY) > 150
    assert dict(zip(NASTY, map(ours, NASTY), strict=True)) == dict(
        zip(NASTY, node.ask("canonical", texts=NASTY), strict=True)
    )
    assert None not in map(ours, NASTY)


def test_what_node_does_not_parse_is_no_json_here(node):
    assert [ours(text) for text in NO_JSON] == node.ask("canonical", texts=NO_JSON) == [None] * len(NO_JSON)


doubles = st.binary(min_size=8, max_size=8).map(lambda raw: struct.unpack("<d", raw)[0])
numbers = st.one_of(
    doubles.map(repr).filter(lambda text: text[-1].isdigit()),
    st.integers(-(2**80), 2**80).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
).filter(str.isascii)
strings = st.one_of(
    st.text(st.characters(codec=None)).map(json.dumps),  # halves of pairs too, escaped
    st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: json.dumps(text, ensure_ascii=False)),
)
keys = st.one_of(
    strings, st.integers(0, 2**33).map(lambda n: f'"{n}"'), st.sampled_from(['"__proto__"', '"00"', '"-0"'])
)
texts = st.recursive(
    st.one_of(numbers, strings, st.sampled_from(["null", "true", "false"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(lambda items: f"[{' , '.join(items)}]"),
        st.lists(st.tuples(keys, inner), max_size=6).map(
            lambda members: "{" + ",".join(f"{key}: {value}" for key, value in members) + "}"
        ),
    ),
    max_leaves=12,
)


@given(batch=st.lists(texts, min_size=1, max_size=20))
def test_any_json_is_written_as_node_writes_it(node, batch):
    assert [ours(text) for text in batch] == node.ask("canonical", texts=batch)


@given(
    batch=st.lists(
        st.text(st.sampled_from('{}[]",:0123456789.eE+-\\u abntrfls\n\t'), max_size=12), min_size=1, max_size=50
    )
)
def test_any_text_is_json_here_exactly_when_it_is_in_node(node, batch):
    assert [ours(text) for text in batch] == node.ask("canonical", texts=batch)


@given(text=texts)
def test_writing_again_changes_nothing(text):
    once = canonical(text)
    assert canonical(once) == once


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1.0, "a": [None, True, 1e21, 1e-7, -0.0]}, '{"b":1,"a":[null,true,1e+21,1e-7,0]}'),
        ([float("nan"), float("inf"), -float("inf")], "[null,null,null]"),
        ({"b": 1, "2": 2, "1": 3}, '{"1":3,"2":2,"b":1}'),
        ("\ud83d" + "\ude00", '"\U0001f600"'),
        ("\ud83d", '"\\ud83d"'),
        ((1, (2,)), "[1,[2]]"),
        (2**63, "9223372036854776000"),
    ],
)
def test_python_values(value, text):
    assert stringify(value) == text.encode()


def test_a_value_that_json_does_not_have_is_an_error():
    with pytest.raises(TypeError):
        stringify({"a": {1, 2}})
    endless = []
    endless.append(endless)
    with pytest.raises(NotJsonError):
        stringify(endless)


def test_nesting_is_read_to_the_limit_and_refused_beyond_it():
    assert canonical("[" * DEEPEST + "]" * DEEPEST)
    for depth in (DEEPEST + 1, 100_000):
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth):
            with pytest.raises(NotJsonError):
                canonical(text)
    assert canonical(json.dumps([[]] * 1000 + ["[" * 1000]))  # wide is not deep


BRACKETS = st.text('[]{}"\\a\n\u00e9', max_size=6)
NESTED = st.recursive(
    BRACKETS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(BRACKETS, inner, max_size=3),
    max_leaves=12,
)


def levels(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


@given(value=NESTED, ascii_only=st.booleans())
def test_brackets_and_quotes_in_strings_are_no_levels(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    around = DEEPEST - levels(value)
    assert canonical("[" * around + text + "]" * around)
    with pytest.raises(NotJsonError, match="too deep"):
        canonical("[" * (around + 1) + text + "]" * (around + 1))


@given(keys=st.lists(st.sampled_from(["", "$", "-1", "/", "0", "9", "10", "9a", ":", "a", "\u0661"]), unique=True))
def test_keys_that_are_indexes_come_first(keys):
    """The rule once more: indexes in their order, then the others as they stood."""
    indexes = sorted((key for key in keys if key in {"0", "9", "10"}), key=int)
    found = json.loads(canonical(json.dumps(dict.fromkeys(keys, 1))))
    assert list(found) == indexes + [key for key in keys if key not in indexes]


@pytest.mark.parametrize(
    "raw", [b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}", '"a"'.encode("utf-16"), b"1" * 5000 + b"x"]
)
def test_bytes_that_are_no_utf8_json_are_refused(raw):
    with pytest.raises(NotJsonError):
        canonical(raw)


def test_digits_that_a_double_does_not_hold_are_noticed():
    lost = {text for text in NUMBERS if canonical_and_rounded(text)[1]}
    assert {"9007199254740993", "9223372036854775807", "1e400", "18446744073709551615"} <= lost
    assert not lost & {"0", "-0", "1", "9007199254740991", "0.1", "1e21", "4294967296", "5e-324"}


@pytest.mark.parametrize("end", ["", "\\"])
def test_a_string_that_does_not_end_is_read_once(end):
    """Looked for again from each quote in it, its end would be looked for 10**11 times."""
    with pytest.raises(NotJsonError):
        canonical('"' + '\\"' * 500_000 + "[" * (DEEPEST + 1) + end)
