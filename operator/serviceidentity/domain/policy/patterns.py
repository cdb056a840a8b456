"""Patterns of names, and whether a name matches one.

Literal text stands for itself. `*` stands for one or more characters of one label (between dots) or segment (between
slashes); `**` as the whole first label, or as the whole last segment of a URI, stands for one or more of them.
What tokens claim is in words between dots, slashes and colons; there `**` is the last word, and stands for
anything.
`{namespace}`, `{name}` and `{serviceAccount}` stand for the identity's own.

A value that has a dot itself would move the boundaries of labels: `{serviceAccount}` of an account called
"payments.shop" would be the name of service payments in namespace shop. So such a value matches nothing, but in the
path of a URI, where a dot is no boundary. Two placeholders in one label are refused for the same reason:
"{name}-{namespace}" of a-b in c is that of a in b-c.

A match takes time linear in pattern and name: a label is compared piece by piece, from left to right, and never again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

Values = Mapping[str, str]

PLACEHOLDERS: Final = ("namespace", "name", "serviceAccount")
_PLACEHOLDER: Final = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_CLAIM: Final = re.compile(r"[!-~]+")
_SEPARATOR: Final = re.compile(r"([./:])")
_PRINTABLE: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
# What `*` stands for in a URI: RFC 3986's unreserved characters. A "?", "@" or "%" would be another kind of part there.
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_IN_HOST: Final = _UNRESERVED - {".", "_", "~"}
ANY: Final = "**"


class Pattern(Protocol):
    """What a name may look like."""

    @property
    def text(self) -> str:
        """As it is written."""
        ...

    def matches(self, name: str, values: Values) -> bool:
        """Say whether a name is what this pattern stands for, with the identity's own values."""
        ...


@dataclass(frozen=True, slots=True)
class Glob:
    """One label or segment of a pattern: the pieces of text between its asterisks."""

    pieces: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Glob":
        """Read it. Raises ValueError."""
        if ANY in text:
            raise ValueError('"**" stands for whole labels or segments, at the outer end only')
        if len(_PLACEHOLDER.findall(text)) > 1:
            raise ValueError("two placeholders next to each other, without a dot or slash between them, are ambiguous")
        if "{" in _PLACEHOLDER.sub("", text) or "}" in _PLACEHOLDER.sub("", text):
            raise ValueError("the placeholders are " + ", ".join(f"{{{name}}}" for name in PLACEHOLDERS))
        return cls(tuple(text.split("*")))

    def matches(self, part: str, values: Values, alphabet: frozenset[str] | None = None, *, dots: bool = False) -> bool:
        """Say whether a part of a name matches. `alphabet` is what an asterisk may stand for; None means anything.

        `dots` says that a dot in a value means nothing here.
        """
        if not part:
            return self.pieces == ("",)
        pieces = []
        for piece in self.pieces:
            filled = _filled(piece, values, dots=dots)
            if filled is None:
                return False
            pieces.append(filled)
        first, *others = pieces
        if not others:
            return part == first
        if not part.startswith(first):
            return False
        at, last = len(first), others.pop()
        for piece in others:
            found = part.find(piece, at + 1)
            if found < 0 or not _within(part[at:found], alphabet):
                return False
            at = found + len(piece)
        end = len(part) - len(last)
        return end > at and part.endswith(last) and _within(part[at:end], alphabet)


@dataclass(frozen=True, slots=True)
class LabelPattern:
    """A pattern of DNS names, or of other names with dots."""

    text: str
    labels: tuple[Glob, ...]
    more: bool  # one or more labels before them

    @classmethod
    def of(cls, text: str) -> "LabelPattern":
        """Read it. Raises ValueError."""
        if not _PRINTABLE.fullmatch(text) or any(not label for label in text.split(".")):
            raise ValueError("has an empty label or a control character")
        if text == ANY:
            return cls(text, (), more=True)
        more = text.startswith(ANY + ".")
        labels = text.removeprefix(ANY + ".") if more else text
        return cls(text, tuple(Glob.of(label) for label in labels.split(".")), more)

    def matches(self, name: str, values: Values, alphabet: frozenset[str] | None = None) -> bool:
        """Say whether a name matches, label by label; `alphabet` is what an asterisk may stand for."""
        labels = name.split(".")
        extra = len(labels) - len(self.labels)
        if "" in labels or (extra < 1 if self.more else extra != 0):
            return False
        return all(_within(label, alphabet) for label in labels[:extra]) and all(
            glob.matches(label, values, alphabet) for glob, label in zip(self.labels, labels[extra:], strict=True)
        )


@dataclass(frozen=True, slots=True)
class EmailPattern:
    """A pattern of e-mail addresses: one for the part before the @, one for the domain."""

    text: str
    local: Glob
    domain: LabelPattern

    @classmethod
    def of(cls, text: str) -> "EmailPattern":
        """Read it. Raises ValueError."""
        local, at, domain = text.partition("@")
        if not local or not at or "@" in domain or " " in text or not _PRINTABLE.fullmatch(text):
            raise ValueError("must have one @ and no space")
        return cls(text, Glob.of(local), LabelPattern.of(domain))

    def matches(self, name: str, values: Values) -> bool:
        """Say whether an address matches."""
        local, _, domain = name.partition("@")
        return "@" not in domain and self.local.matches(local, values) and self.domain.matches(domain, values)


@dataclass(frozen=True, slots=True)
class UriPattern:
    """A pattern of URIs: scheme, host, and path segment by segment. What follows "?" or "#" only as it is written."""

    text: str
    scheme: str
    host: LabelPattern | None
    path: tuple[Glob, ...]
    more: bool  # one or more segments after them

    @classmethod
    def of(cls, text: str) -> "UriPattern":
        """Read it. Raises ValueError."""
        if not _URI.fullmatch(text):
            raise ValueError('must begin with a scheme, such as "https://example.org/{namespace}/*"')
        scheme, host, path = _parts(text)
        more = path[-1:] == [ANY]
        segments = tuple(Glob.of(segment) for segment in (path[:-1] if more else path))
        return cls(text, scheme, None if host is None else LabelPattern.of(host), segments, more)

    def matches(self, name: str, values: Values) -> bool:
        """Say whether a URI matches, part by part."""
        scheme, host, path = _parts(name)
        if scheme != self.scheme or (host is None) is not (self.host is None) or {".", ".."} & set(path):
            return False
        if host is not None and self.host is not None and not self.host.matches(host, values, _IN_HOST):
            return False
        extra = len(path) - len(self.path)
        if extra < 1 if self.more else extra != 0:
            return False
        rest = path[len(self.path) :]
        return all(segment and _within(segment, _UNRESERVED) for segment in rest) and all(
            glob.matches(segment, values, _UNRESERVED, dots=True)
            for glob, segment in zip(self.path, path, strict=False)
        )


@dataclass(frozen=True, slots=True)
class ClaimPattern:
    """A pattern of what a token may claim, such as orders:read: words between dots, slashes and colons."""

    text: str
    words: tuple[Glob, ...]
    separators: tuple[str, ...]
    more: bool  # anything after them, but not nothing

    @classmethod
    def of(cls, text: str) -> "ClaimPattern":
        """Read it. Raises ValueError."""
        if not _CLAIM.fullmatch(text):
            raise ValueError("must be ASCII characters without spaces")
        words, separators = _words(text)
        more = words[-1] == ANY
        return cls(text, tuple(Glob.of(word) for word in (words[:-1] if more else words)), separators, more)

    def matches(self, name: str, values: Values) -> bool:
        """Say whether a claim matches, word by word."""
        words, separators = _words(name)
        if self.more:
            known = len(self.words)
            if words[known:] in ([], [""]):
                return False
            words, separators = words[:known], separators[:known]
        return separators == self.separators and all(
            glob.matches(word, values) for glob, word in zip(self.words, words, strict=True)
        )


def _words(text: str) -> tuple[list[str], tuple[str, ...]]:
    """Split a claim into its words and what is between them."""
    found = _SEPARATOR.split(text)
    return found[::2], tuple(found[1::2])


def _parts(uri: str) -> tuple[str, str | None, list[str]]:
    """Split a URI into scheme, authority and the segments of its path, as it is written: nothing is normalised."""
    scheme, _, rest = uri.partition(":")
    if not rest.startswith("//"):
        return scheme, None, rest.split("/")
    host, slash, path = rest[2:].partition("/")
    return scheme, host, path.split("/") if slash else []


def shown(pattern: Pattern, values: Values) -> str:
    """Return the pattern with the identity's own values, for a message."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], pattern.text)


def _filled(piece: str, values: Values, *, dots: bool) -> str | None:
    """Put the value into a piece of a pattern; None when the value must not stand there."""
    found = _PLACEHOLDER.search(piece)
    if found is None:
        return piece
    value = values[found[1]]
    labels = value.split(".") if dots else [value]
    if not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return piece[: found.start()] + value + piece[found.end() :]


def _within(text: str, alphabet: frozenset[str] | None) -> bool:
    return alphabet is None or alphabet.issuperset(text)
