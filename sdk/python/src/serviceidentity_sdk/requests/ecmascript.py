"""JSON as JavaScript reads and writes it: `canonical(text)` is `JSON.stringify(JSON.parse(text))`, byte for byte.

What differs from Python's json: every number is a double (ECMA-262 6.1.6.1.20 says how it is written), keys that are
array indexes come first in ascending order (10.1.11.1), half a surrogate pair is escaped (25.5.2.3), and NaN is no
JSON.

The json module does the work in C; numbers are turned into what it writes as JavaScript would.
"""

import json
import re
from itertools import accumulate
from typing import Any, Final

DEEPEST: Final = 400  # levels; Python's parser goes as deep as its stack allows, which is no fixed number
_EXACT_DIGITS: Final = 15  # so many digits of an integer always survive a double
_LAST_INDEX: Final = 2**32 - 2  # ECMA-262 6.1.7: an array index is below 2**32 - 1
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_DEPTH: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(set(range(256)) - _DEPTH.keys())
# Python writes 0.00001 as 1e-05 and 1e-7 as 1e-07. Whatever is in quotes is skipped.
_SMALL: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|(-?)([0-9]+)(?:\.([0-9]+))?e-0([5-9])', re.DOTALL)
_HALF: Final = re.compile("[\ud800-\udfff]")


class NotJsonError(ValueError):
    """The text is no JSON, or nested deeper than `DEEPEST` levels. The message does not quote it."""


def canonical(text: bytes | str) -> bytes:
    """Return JSON as `JSON.stringify(JSON.parse(text))` writes it, in UTF-8. Raises NotJsonError."""
    return _Reading(strict=True).canonical(text)


def stringify(value: Any) -> bytes:
    """Return a Python value as JSON.stringify would write it, in UTF-8.

    NaN and the infinities are `null`, an integer that no double holds is rounded, keys that are numbers become text,
    all as JavaScript does. Raises TypeError for what is no JSON value, NotJsonError for what is nested too deep.
    """
    try:
        # Through text, so that there is one way of writing. ASCII, so that two halves of a pair become one character.
        text = json.dumps(value)
    except (RecursionError, ValueError):  # ValueError: it contains itself
        raise NotJsonError("the value is nested too deep") from None
    return _Reading(strict=False).canonical(text)


def canonical_and_rounded(text: bytes | str) -> tuple[bytes, bool]:
    """Return `canonical(text)`, and whether a number in it is another one for a JavaScript program than was written."""
    reading = _Reading(strict=True)
    return reading.canonical(text), reading.rounded


class _Reading:
    """One pass over one text."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._small = False
        self.rounded = False

    def canonical(self, text: bytes | str) -> bytes:
        try:
            read = text.decode() if isinstance(text, bytes) else text
            _check_depth(read)
            value = json.loads(
                read,
                parse_int=self._integer,
                parse_float=self._number,
                parse_constant=self._constant,
                object_hook=_ordered,
            )
            written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        except NotJsonError:
            raise
        except (ValueError, RecursionError):
            raise NotJsonError("it is no JSON") from None
        if self._small:
            written = _SMALL.sub(_without_padding, written)
        try:
            return written.encode()
        except UnicodeEncodeError:
            return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", written).encode()

    def _integer(self, text: str) -> float | int | None:
        if len(text) <= _EXACT_DIGITS:
            return int(text)  # -0 is 0 for JSON.stringify too
        number = self._number(text)
        self.rounded = self.rounded or number is None or text.lstrip("-") != str(number).lstrip("-")
        return number

    def _number(self, text: str) -> float | int | None:
        """Return what the json module writes as JavaScript writes this number."""
        number = float(text)
        size = abs(number)
        if size == float("inf"):
            self.rounded = True
            return None
        if size >= 1e21:  # from here on both write 1e+21  # noqa: PLR2004
            return number
        if number.is_integer():
            return _whole(number)
        self._small = self._small or size < 1e-4  # noqa: PLR2004
        return number

    def _constant(self, _name: str) -> None:
        if self._strict:
            raise NotJsonError("it is no JSON")


def _whole(number: float) -> int:
    """Return the integer with the digits that JavaScript writes: as few as say which double it is, then zeros."""
    if abs(number) < 2**53:
        return int(number)
    digits, _, exponent = f"{number!r}".partition("e")
    if not exponent:
        return int(digits.removesuffix(".0"))
    whole, _, fraction = digits.partition(".")
    return int(whole + fraction.ljust(int(exponent), "0"))


def _ordered(members: dict[str, Any]) -> dict[str, Any]:
    """Put the keys that are array indexes first."""
    if not members or min(members) >= ":":  # the character after 9: none of them begins with a digit
        return members
    indexes = sorted(int(key) for key in members if _INDEX.fullmatch(key) and int(key) <= _LAST_INDEX)
    first = {str(index): members[str(index)] for index in indexes}
    return first | {key: value for key, value in members.items() if key not in first}


def _without_padding(match: re.Match[str]) -> str:
    sign, whole, fraction, exponent = match.groups()
    if exponent is None:
        return match[0]
    if int(exponent) <= 6:  # JavaScript writes 0.000001 in full, 1e-7 not  # noqa: PLR2004
        return f"{sign}0.{'0' * (int(exponent) - 1)}{whole}{fraction or ''}"
    return f"{sign}{whole}{'.' + fraction if fraction else ''}e-{exponent}"


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    # Without escaped backslashes and quotes, what is between each second pair of quotes is outside of strings.
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    brackets = outside.encode("ascii", "replace").translate(None, _NO_BRACKETS)
    if max(accumulate(map(_DEPTH.__getitem__, brackets)), default=0) > DEEPEST:
        raise NotJsonError("the text is nested too deep")
