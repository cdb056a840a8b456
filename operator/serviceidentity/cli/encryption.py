"""`kubectl sid encrypt`, `rekey` and `encryption-key`: values that only the operator can decrypt, and their keys.

Nothing here prints a value in plain, and none is taken from the command line.
"""

import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serviceidentity.adapters.kube.client import MERGE_PATCH, Json, KubeClient
from serviceidentity.adapters.kube.objects import KubeConfigMaps, KubeSecrets
from serviceidentity.cli.commands import UsageError
from serviceidentity.cli.manifests import ManifestError, Place, places, replaced
from serviceidentity.domain import ownership
from serviceidentity.domain.encryption import ring as rings
from serviceidentity.domain.encryption import values
from serviceidentity.domain.encryption.opening import ValueKeys, open_values, parse_master_keys
from serviceidentity.domain.encryption.ring import PUBLIC_NAME, SECRET_NAME, KeyRing
from serviceidentity.domain.encryption.values import Asymmetric, Scope, UndecryptableError
from serviceidentity.domain.material import Held, KeyMaterial, MalformedError
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.errors import ForbiddenError, MissingError

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """What became of the files: what to print, and what is wrong."""

    told: tuple[str, ...]
    problems: tuple[str, ...] = ()


def encrypt(value: bytes, scope: Scope, public_key: bytes) -> str:
    """Encrypt a value to a public key in PEM. Raises UsageError."""
    try:
        key = rings.from_pem(public_key)
        return values.encrypt(KeyMaterial(value), key, rings.key_id(key), scope)
    except PkiError as error:
        raise UsageError(f"the public key can't be used: {error}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def encrypt_symmetric(value: bytes, master_keys: Path) -> str:
    """Encrypt a value with the newest of the master keys in a file. Raises UsageError."""
    try:
        return values.encrypt_symmetric(KeyMaterial(value), read_master_keys(master_keys)[0])
    except ValueError as error:
        raise UsageError(str(error)) from None


async def public_key(client: KubeClient, namespace: str) -> bytes:
    """Return the operator's public key in PEM, as it is published. Raises UsageError, PortError."""
    try:
        view = await KubeConfigMaps(client).read(namespace, PUBLIC_NAME)
        if view is not None:
            return view.value(rings.PUBLIC_KEY)
    except ForbiddenError:
        raise UsageError(f"not allowed to read ConfigMap {PUBLIC_NAME} in namespace {namespace}") from None
    except MalformedError:
        pass
    raise UsageError(f"no public key in namespace {namespace}: is the operator installed there? --operator-namespace")


async def rotate(client: KubeClient, namespace: str) -> str:
    """Ask for a new key pair. Where there is no ring any more, this is how a new one is made."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    meta: Json = {"annotations": {ownership.ROTATE_ANNOTATION: secrets.token_hex(6)}}
    try:
        await client.request("PATCH", f"{path}/{PUBLIC_NAME}", {"metadata": meta}, MERGE_PATCH)
    except MissingError:
        labels = {ownership.MANAGED_BY_LABEL: ownership.MANAGED_BY, rings.LABEL: "true"}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta | {"name": PUBLIC_NAME, "labels": labels}}
        await client.request("POST", path, body)
    return "a new encryption key is being made; the old ones still decrypt\nthen: kubectl sid rekey FILE..."


async def key_ring(client: KubeClient, namespace: str) -> KeyRing:
    """Read the private keys: for who may read Secrets in the operator's namespace. Raises UsageError, PortError."""
    try:
        view = await KubeSecrets(client).read(namespace, SECRET_NAME)
    except ForbiddenError:
        raise UsageError(f"not allowed to read Secret {SECRET_NAME} in namespace {namespace}") from None
    if view is None:
        raise UsageError(f"there is no Secret {SECRET_NAME} in namespace {namespace}")
    try:
        return rings.from_json(view.value(rings.KEYS))
    except MalformedError as error:
        raise UsageError(f"Secret {SECRET_NAME} can't be used: {error}") from None


def read_ring(path: Path) -> KeyRing:
    """Read a ring from a file: what the Secret has under keys.json. Raises UsageError."""
    try:
        return rings.from_json(read_file(path))
    except MalformedError as error:
        raise UsageError(f"{path}: {error}") from None


def read_master_keys(path: Path) -> tuple[KeyMaterial, ...]:
    """Read master keys, the newest first. Raises UsageError."""
    try:
        return parse_master_keys(read_file(path).decode())
    except (UnicodeDecodeError, PkiError) as error:
        raise UsageError(f"{path}: {error if isinstance(error, PkiError) else 'it is no text'}") from None


def read_file(path: Path) -> bytes:
    """Return what is in a file. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def rekey(
    files: Sequence[Path], ring: KeyRing, masters: tuple[KeyMaterial, ...], namespace: str | None, *, convert: bool
) -> Rekeyed:
    """Encrypt the values in manifests with the newest key, in place; with `convert` the symmetric ones too.

    Without, a symmetric value stays one, with the newest master key. Nothing is written unless all is well.
    """
    told: list[str] = []
    problems: list[str] = []
    changes: list[tuple[Path, str]] = []
    keys = ValueKeys(ring=ring, masters=masters)
    for path in files:
        try:
            source = read_file(path).decode()
            bom, source = source[: source.startswith(_BOM)], source.removeprefix(_BOM)
            texts: dict[Place, str] = {}
            for place in places(source, namespace):
                new = _anew(place, keys, convert=convert)
                if new is not None:
                    texts[place] = new
                    told.append(f"{path}: {_name(place)}: {_key(place.text)} -> {_key(new)}")
            if texts:
                changes.append((path, bom + replaced(source, texts, namespace)))
        except (ManifestError, UndecryptableError, values.MalformedValueError) as error:
            problems.append(f"{path}: {error}")
        except UnicodeDecodeError:
            problems.append(f"{path}: it is not UTF-8")
    if problems:
        return Rekeyed((), (*problems, "nothing was changed"))
    for path, text in changes:
        _write(path, text)
    return Rekeyed(tuple(told) if told else ("everything is encrypted with the newest key already",))


def _anew(place: Place, keys: ValueKeys, *, convert: bool) -> str | None:
    """Return a value encrypted with the newest key; None when it is already, or when there is no key for its form."""
    value = values.parse(place.text)
    symmetric = not isinstance(value, Asymmetric)
    if isinstance(value, Asymmetric) and value.key_id == keys.ring.newest.id:
        return None
    if not isinstance(value, Asymmetric) and not convert:
        if not keys.masters:
            return None  # none was given: the symmetric values are not what this is about
        with suppress(UndecryptableError):
            value.decrypt(keys.masters[0])
            return None
    scope = place.scope
    found = open_values({scope.key: place.text}, scope.namespace, scope.name, keys)
    if isinstance(found, Held):
        raise UndecryptableError(f"{scope.namespace}/{scope.name}: {found.message}")
    plain, newest = found.values[scope.key], keys.ring.newest
    if symmetric and not convert:
        return values.encrypt_symmetric(plain, keys.masters[0])
    return values.encrypt(plain, newest.private_key.public_key(), newest.id, scope)


def _name(place: Place) -> str:
    return f"{place.scope.namespace}/{place.scope.name} {place.scope.key}"


def _key(text: str) -> str:
    value = values.parse(text)
    return f"key {value.key_id}" if isinstance(value, Asymmetric) else "a master key"


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole: an interrupted run leaves the old one. A link stays a link."""
    target = path.resolve()
    try:
        mode = target.stat().st_mode
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            Path(temporary).chmod(mode & 0o7777)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
