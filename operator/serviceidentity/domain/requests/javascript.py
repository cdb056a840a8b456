"""JSON as JavaScript's JSON.stringify writes what JSON.parse has read (ECMA-262 25.5): what signatures are over."""

import json
import math
from decimal import Decimal
from typing import Any, Final, NoReturn

from serviceidentity.domain.material import MalformedError

_LAST_INDEX: Final = 2**32 - 2
_LONGEST_INDEX: Final = 10
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MOST_DIGITS: Final = 21  # from 1e21 on a number has an exponent, and below 1e-6
_LEAST_EXPONENT: Final = -6


def parse(text: bytes) -> Any:
    """Read JSON in UTF-8 as JSON.parse does: every number is a double. Raises MalformedError."""
    try:
        return json.loads(text.decode(), parse_int=float, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise MalformedError("the body is not JSON") from None


def stringify(value: object) -> bytes:
    """Write texts, numbers, booleans, None, lists and objects. Raises MalformedError on anything else."""
    try:
        return _written(value).encode()
    except RecursionError:
        raise MalformedError("the body is nested too deeply") from None


def _written(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number(value)
        case str():
            return _text(value)
        case list() | tuple():
            return f"[{','.join(map(_written, value))}]"
        case dict() if all(isinstance(name, str) for name in value):
            # ECMA-262 10.1.11.1: names that are array indices come first, in their order.
            indices = sorted((name for name in value if _is_index(name)), key=int)
            names = indices + [name for name in value if not _is_index(name)]
            return f"{{{','.join(f'{_text(name)}:{_written(value[name])}' for name in names)}}}"
    raise MalformedError("the body has something that JSON can't say")


def _number(value: float) -> str:
    """Return Number::toString (ECMA-262 6.1.6.1.20): the shortest digits that are read as the same double."""
    try:
        double = float(value)
    except OverflowError:
        double = math.inf
    if not math.isfinite(double):
        return "null"
    if double == 0:
        return "0"  # minus zero too
    sign, digits, exponent = Decimal(repr(double)).normalize().as_tuple()
    shown = "".join(map(str, digits))
    point = len(shown) + int(exponent)  # where the decimal point is, counted from the first digit
    return ("-" if sign else "") + _placed(shown, point)


def _placed(digits: str, point: int) -> str:
    if len(digits) <= point <= _MOST_DIGITS:
        return digits.ljust(point, "0")
    if 0 < point <= _MOST_DIGITS:
        return f"{digits[:point]}.{digits[point:]}"
    if _LEAST_EXPONENT < point <= 0:
        return f"0.{'0' * -point}{digits}"
    mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{mantissa}e{point - 1:+d}"


def _text(value: str) -> str:
    """Return QuoteJSONString (ECMA-262 25.5.2.3): control characters and half surrogate pairs are escaped."""
    return f'"{"".join(map(_character, value))}"'


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\u{ord(character):04x}" if character < " " or "\ud800" <= character <= "\udfff" else character


def _is_index(name: str) -> bool:
    if not (name.isascii() and name.isdecimal()) or len(name) > _LONGEST_INDEX:
        return False
    return str(int(name)) == name and int(name) <= _LAST_INDEX


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("not a number of JSON")
