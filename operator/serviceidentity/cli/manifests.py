"""Encrypted values in manifests: where each stands in the text, so that it alone is replaced.

Comments, order, quotes and line ends stay as they are. What comes out is read again before it is used: it must say the
same but for the values that were replaced.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from serviceidentity.domain.encryption.values import PREFIX, Scope
from serviceidentity.domain.model import GROUP
from serviceidentity.errors import ServiceIdentityError

_PROPERTIES: Final = re.compile(r"(?:[&!]\S*\s+)*")  # anchor and tag, which stand before a scalar's own text


class ManifestError(ServiceIdentityError):
    """A manifest can't be read or changed. The message never quotes it."""


@dataclass(frozen=True, slots=True)
class Place:
    """An encrypted value in a manifest: what it belongs to, its text, and from where to where it is written."""

    scope: Scope
    text: str
    start: int
    end: int


def places(source: str, namespace: str | None) -> list[Place]:
    """Return all encrypted values of the ServiceIdentities in a manifest, of one or several documents.

    `namespace` is for those that name none. Raises ManifestError.
    """
    try:
        # The C-less loader: of the two only this one counts characters.
        documents = list(yaml.compose_all(source, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ManifestError(f"it is no YAML that can be read{_line(error)}") from None
    except RecursionError:
        raise ManifestError("it is nested too deeply") from None
    found: list[Place] = []
    for node in (item for document in documents for item in _objects(document)):
        meta = _fields(_fields(node).get("metadata"))
        values = _fields(_fields(_fields(_fields(node).get("spec")).get("encrypted")).get("values"))
        for key, value in values.items():
            if not isinstance(value, yaml.ScalarNode) or not str(value.value).startswith(PREFIX):
                continue
            where = _text(meta.get("namespace")) or namespace
            name = _text(meta.get("name"))
            if not where or not name:
                raise ManifestError(f"line {value.start_mark.line + 1}: no namespace or name: give --namespace")
            start = value.start_mark.index
            start += len(_match(source[start : value.end_mark.index]))
            found.append(Place(Scope(where, name, key), str(value.value), start, value.end_mark.index))
    if len({place.start for place in found}) < len(found):
        raise ManifestError("a value stands for several keys (a YAML alias): write each of them out")
    return found


def replaced(source: str, texts: Mapping[Place, str], namespace: str | None) -> str:
    """Return the manifest with other texts in those places. Raises ManifestError when it would say anything else."""
    result = source
    for place, text in sorted(texts.items(), key=lambda item: item[0].start, reverse=True):
        old = source[place.start : place.end]
        quote = old[:1] if old[:1] in ("'", '"') else ""
        rest = "" if quote else old[len(old.rstrip()) :]  # the line end of a block scalar
        result = result[: place.start] + quote + text + quote + rest + result[place.end :]
    wanted = [(place.scope, texts.get(place, place.text)) for place in places(source, namespace)]
    found = [(place.scope, place.text) for place in places(result, namespace)]
    if found != wanted or _masked(_loaded(source)) != _masked(_loaded(result)):
        raise ManifestError("a value is written in a way that can't be replaced in place: put it on one line")
    return result


def _masked(value: Any) -> Any:
    """Return what was loaded without the encrypted values."""
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return PREFIX if isinstance(value, str) and value.startswith(PREFIX) else value


def _loaded(source: str) -> list[Any]:
    try:
        return list(yaml.load_all(source, Loader=_Texts))  # a SafeLoader
    except (yaml.YAMLError, RecursionError):
        raise ManifestError("it is no YAML that can be read") from None


class _Texts(yaml.SafeLoader):
    """Loads as the safe loader does, but for tags of other programs, whose texts are taken as they are."""


def _unknown(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_pairs(node, deep=True)


_Texts.add_multi_constructor("!", _unknown)


def _objects(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Return the ServiceIdentities in a document: itself, or the items of a List."""
    fields = _fields(node)
    kind, version = _text(fields.get("kind")) or "", _text(fields.get("apiVersion")) or ""
    if node is not None and kind == "ServiceIdentity" and version.startswith(f"{GROUP}/"):
        yield node
    items = fields.get("items")
    if kind.endswith("List") and isinstance(items, yaml.SequenceNode):
        for item in items.value:
            yield from _objects(item)


def _fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _text(node: yaml.Node | None) -> str | None:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def _match(source: str) -> str:
    found = _PROPERTIES.match(source)
    return found[0] if found else ""


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""
