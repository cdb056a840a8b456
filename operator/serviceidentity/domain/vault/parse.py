"""From `spec.vault` of an identity to its value. Raises InvalidSpecError with the field's path."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from serviceidentity.domain.fields import Json, block, blocks, count, duration, key_profile, text, texts
from serviceidentity.domain.vault.content import FORBIDDEN_TYPES, is_secret_key
from serviceidentity.domain.vault.spec import (
    DEFAULT_CONNECTION,
    KvSource,
    LeaseSource,
    PkiSource,
    Source,
    SourceKind,
    StaticRoleSource,
    TransitSource,
    VaultSecretSpec,
    VaultSpec,
)
from serviceidentity.domain.vault.templates import CompileTemplate, Template, TemplateError
from serviceidentity.errors import InvalidSpecError

SOURCES: Final = ("kv", "database", "lease", "pki", "transit")
MOST_TEMPLATES: Final = 32 * 1024  # characters of an identity; compiling them takes half a second at the worst
SHORTEST_REFRESH: Final = timedelta(seconds=5)
_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9_.@:=+~ -]+"
_PATH: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
# Vault's own: what is read there is no secret but who asks, and what is written there changes the server.
_SYSTEM: Final = frozenset({"sys", "auth", "identity", "cubbyhole"})
VAULT_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_ENTRY_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def vault_spec(given: Json, identity: str, compile_template: CompileTemplate) -> VaultSpec:
    """Read `spec.vault` of the identity called `identity`."""
    path = "spec.vault"
    reference = block(given, "connectionRef", path)
    _check_templates(given, path)
    secrets = tuple(_secret(item, where, identity, compile_template) for where, item in blocks(given, "secrets", path))
    if not secrets:
        raise InvalidSpecError(f"{path}.secrets", "must name at least one secret")
    names = [secret.name for secret in secrets]
    if len(set(names)) < len(names):
        raise InvalidSpecError(f"{path}.secrets", "must not have the same name twice")
    return VaultSpec(
        connection=text(reference, "name", f"{path}.connectionRef", DEFAULT_CONNECTION),
        role=_name(given, "role", path) if given.get("role") is not None else None,
        secrets=secrets,
    )


def _secret(item: Json, path: str, identity: str, compile_template: CompileTemplate) -> VaultSecretSpec:
    name = text(item, "name", path)
    if not _ENTRY_NAME.fullmatch(name):
        raise InvalidSpecError(f"{path}.name", "must be at most 40 lower-case letters, digits and dashes")
    given = [field for field in SOURCES if item.get(field) is not None]
    if len(given) != 1:
        raise InvalidSpecError(path, f"must have exactly one of {', '.join(SOURCES)}")
    source = _READERS[given[0]](block(item, given[0], path), f"{path}.{given[0]}", identity)
    refresh = duration(item, "refreshEvery", path, timedelta(minutes=5))
    if refresh < SHORTEST_REFRESH:
        raise InvalidSpecError(f"{path}.refreshEvery", "must be at least 5s")
    template = block(item, "secretTemplate", path)
    found = VaultSecretSpec(
        name=name,
        secret_name=text(item, "secretName", path, f"{identity}-{name}"),
        source=source,
        refresh_every=refresh,
        overlap=duration(item, "overlap", path, timedelta(minutes=10)),
        keys=_keys(item, path),
        templates=_templates(item, path, compile_template),
        type=text(item, "type", path, "Opaque"),
        labels=dict(block(template, "labels", f"{path}.secretTemplate")),
        annotations=dict(block(template, "annotations", f"{path}.secretTemplate")),
    )
    if found.type in FORBIDDEN_TYPES:
        raise InvalidSpecError(f"{path}.type", f"must not be {found.type}: the cluster itself acts on such Secrets")
    if isinstance(source, PkiSource):
        for field in ("keys", "templates", "type"):
            if item.get(field):
                raise InvalidSpecError(f"{path}.{field}", "must be left out: a certificate's Secret has its own form")
        return replace(found, type="kubernetes.io/tls")
    return found


def _keys(item: Json, path: str) -> Mapping[str, str]:
    keys = block(item, "keys", path)
    for key, wanted in keys.items():
        if not is_secret_key(key) or not isinstance(wanted, str) or not wanted:
            raise InvalidSpecError(f"{path}.keys.{key}", "must name a field of the secret, under a Secret's key")
    return dict(keys)


def _check_templates(given: Json, path: str) -> None:
    """Refuse, before any is compiled, what would hold up everything else meanwhile."""
    written = [block(item, "templates", where).values() for where, item in blocks(given, "secrets", path)]
    if sum(len(source) for sources in written for source in sources if isinstance(source, str)) > MOST_TEMPLATES:
        said = f"must have at most {MOST_TEMPLATES} characters of templates together"
        raise InvalidSpecError(f"{path}.secrets", said)


def _templates(item: Json, path: str, compile_template: CompileTemplate) -> Mapping[str, Template]:
    compiled = {}
    for key, source in block(item, "templates", path).items():
        where = f"{path}.templates.{key}"
        if not is_secret_key(key) or not isinstance(source, str):
            raise InvalidSpecError(where, "must be a template, under a Secret's key")
        if key in block(item, "keys", path):
            raise InvalidSpecError(where, "must not be in keys as well")
        try:
            compiled[key] = compile_template(source)
        except TemplateError as error:
            raise InvalidSpecError(where, str(error)) from None
    return compiled


def _kv(given: Json, path: str, _identity: str) -> Source:
    version = count(given, "version", path, 1) if given.get("version") is not None else None
    return KvSource(_engine(given, "mount", path, "secret"), _path(given, "path", path), version)


def _database(given: Json, path: str, _identity: str) -> Source:
    mount = _engine(given, "mount", path, "database")
    if (given.get("role") is None) is (given.get("staticRole") is None):
        raise InvalidSpecError(path, "must have exactly one of role and staticRole")
    if given.get("role") is not None:
        return LeaseSource(f"{mount}/creds/{_name(given, 'role', path)}", kind=SourceKind.DATABASE)
    return StaticRoleSource(mount, _name(given, "staticRole", path))


def _lease(given: Json, path: str, _identity: str) -> Source:
    method = text(given, "method", path, "GET")
    if method not in ("GET", "PUT"):
        raise InvalidSpecError(f"{path}.method", "must be GET or PUT")
    parameters = block(given, "parameters", path)
    if not all(isinstance(value, str) for value in parameters.values()):
        raise InvalidSpecError(f"{path}.parameters", "must be texts")
    return LeaseSource(_engine(given, "path", path), method, tuple(sorted(parameters.items())))


def _pki(given: Json, path: str, identity: str) -> Source:
    profile = key_profile(block(given, "privateKey", path), f"{path}.privateKey")
    source = PkiSource(
        mount=_engine(given, "mount", path, "pki"),
        role=_name(given, "role", path),
        common_name=text(given, "commonName", path, identity),
        dns_names=texts(given, "dnsNames", path),
        ip_addresses=texts(given, "ipAddresses", path),
        uris=texts(given, "uris", path),
        duration=duration(given, "duration", path) if given.get("duration") is not None else None,
        renew_before=duration(given, "renewBefore", path) if given.get("renewBefore") is not None else None,
        profile=profile,
    )
    if source.duration is not None and source.renew_before is not None and source.renew_before >= source.duration:
        raise InvalidSpecError(f"{path}.renewBefore", "must be shorter than duration")
    return source


def _transit(given: Json, path: str, _identity: str) -> Source:
    bits = count(given, "bits", path, 256)
    if bits not in (128, 256, 512):
        raise InvalidSpecError(f"{path}.bits", "must be 128, 256 or 512")
    rotate = duration(given, "rotateEvery", path) if given.get("rotateEvery") is not None else None
    if rotate is not None and rotate < timedelta(seconds=10):
        raise InvalidSpecError(f"{path}.rotateEvery", "must be at least 10s")
    return TransitSource(_engine(given, "mount", path, "transit"), _name(given, "key", path), bits, rotate)


_READERS: Final = {"kv": _kv, "database": _database, "lease": _lease, "pki": _pki, "transit": _transit}


def _path(given: Json, field: str, path: str, default: str | None = None) -> str:
    value = text(given, field, path, default)
    if not _PATH.fullmatch(value):
        raise InvalidSpecError(f"{path}.{field}", "must be a path in Vault, without a slash at either end")
    return value


def _engine(given: Json, field: str, path: str, default: str | None = None) -> str:
    value = _path(given, field, path, default)
    if value.split("/")[0] in _SYSTEM:
        raise InvalidSpecError(
            f"{path}.{field}", "must not be in sys, auth, identity or cubbyhole: no secrets are there"
        )
    return value


def _name(given: Json, field: str, path: str) -> str:
    value = text(given, field, path)
    if not VAULT_NAME.fullmatch(value):
        raise InvalidSpecError(f"{path}.{field}", "must be letters, digits, dots, dashes and underscores")
    return value
