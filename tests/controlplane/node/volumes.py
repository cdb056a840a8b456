"""Volumes as a kubelet makes them: `..data` is a link to a directory with all files, swapped as a whole."""

import base64
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.controlplane.node.api import Object
from tests.controlplane.node.spec import NotSupportedError, field_of

KEEP: Final = "..data"
DEFAULT_MODE: Final = 0o644

# Returns an object by kind (Secret, ConfigMap) and name; None when it is not there.
Lookup = Callable[[str, str], Object | None]


class WaitError(Exception):
    """Something that the Pod needs is not there yet."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume."""

    content: bytes
    mode: int


def sources(volume: Object) -> set[tuple[str, str]]:
    """Return what a volume is made of, as pairs of kind and name."""
    found = set()
    for source in _parts(volume):
        if "secret" in source:
            found.add(("Secret", _secret_name(source["secret"])))
        if "configMap" in source:
            found.add(("ConfigMap", source["configMap"]["name"]))
    return found


def wants_token(volume: Object) -> list[Object]:
    """Return the service account tokens that a volume asks for."""
    return [source["serviceAccountToken"] for source in _parts(volume) if "serviceAccountToken" in source]


def files(volume: Object, pod: Object, lookup: Lookup, tokens: Mapping[str, str]) -> dict[str, File]:
    """Return the files of a volume, by path; `tokens` has those of the service account, by path.

    Raises WaitError when an object or key that is not optional is missing, NotSupportedError for another volume.
    """
    mode = next((kind["defaultMode"] for kind in volume.values() if _has_mode(kind)), DEFAULT_MODE)
    found: dict[str, File] = {}
    for source in _parts(volume):
        if "secret" in source:
            name = _secret_name(source["secret"])
            found |= _chosen(source["secret"], "Secret", name, lookup("Secret", name), mode)
        elif "configMap" in source:
            name = source["configMap"]["name"]
            found |= _chosen(source["configMap"], "ConfigMap", name, lookup("ConfigMap", name), mode)
        elif "downwardAPI" in source:
            for item in source["downwardAPI"].get("items") or []:
                if "fieldRef" not in item:
                    raise NotSupportedError(f"volume {volume['name']}: downwardAPI with {sorted(item)}")
                value = field_of(pod, item["fieldRef"]["fieldPath"])
                found[item["path"]] = File(value.encode(), item.get("mode", mode))
        elif "serviceAccountToken" in source:
            path = source["serviceAccountToken"]["path"]
            found[path] = File(tokens[path].encode(), mode)
        elif "emptyDir" not in source:
            raise NotSupportedError(f"volume {volume['name']} is {', '.join(sorted(source.keys() - {'name'}))}")
    return found


def content_of(kind: str, item: Object) -> dict[str, bytes]:
    """Return what a Secret or ConfigMap holds; objects of a list do not say their kind."""
    if kind == "Secret":
        return {key: base64.b64decode(value) for key, value in (item.get("data") or {}).items()}
    text = {key: str(value).encode() for key, value in (item.get("data") or {}).items()}
    return text | {key: base64.b64decode(value) for key, value in (item.get("binaryData") or {}).items()}


def write(directory: Path, wanted: Mapping[str, File]) -> bool:
    """Make a directory show exactly these files, from one moment to the next; return whether anything changed.

    A reader who has opened `..data` once sees files of one version only: the order is that of the kubelet's AtomicWriter.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / KEEP
    old = data.readlink() if data.is_symlink() else None
    if old is not None and _read(directory / old) == dict(wanted):
        return False
    new = directory / f"..{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime())}.{secrets.randbelow(10**9):09d}"
    new.mkdir(mode=0o755)
    for name, file in wanted.items():
        path = new / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(file.content)
            os.fchmod(stream.fileno(), file.mode)
    link = directory / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(new.name)
    link.replace(data)
    shown = {Path(name).parts[0] for name in wanted}
    for name in shown:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(Path(KEEP, name))
    for path in directory.iterdir():
        if not path.name.startswith("..") and path.name not in shown:
            path.unlink()
    if old is not None:
        shutil.rmtree(directory / old)
    return True


def _parts(volume: Object) -> list[Object]:
    return list(volume["projected"].get("sources") or []) if "projected" in volume else [volume]


def _has_mode(kind: object) -> bool:
    return isinstance(kind, dict) and "defaultMode" in kind


def _secret_name(source: Object) -> str:
    return str(source.get("secretName") or source["name"])  # a volume says secretName, a projection says name


def _chosen(source: Object, kind: str, name: str, item: Object | None, mode: int) -> dict[str, File]:
    optional = source.get("optional", False)
    if item is None:
        if optional:
            return {}
        raise WaitError(f"{kind} {name} not found")
    content = content_of(kind, item)
    if not source.get("items"):
        return {key: File(value, mode) for key, value in content.items()}
    found = {}
    for wanted in source["items"]:
        if wanted["key"] in content:
            found[wanted["path"]] = File(content[wanted["key"]], wanted.get("mode", mode))
        elif not optional:
            raise WaitError(f"{kind} {name} has no key {wanted['key']}")
    return found


def _read(directory: Path) -> dict[str, File] | None:
    try:
        paths = [path for path in directory.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(directory)): File(path.read_bytes(), path.stat().st_mode & 0o777) for path in paths
        }
    except OSError:
        return None
