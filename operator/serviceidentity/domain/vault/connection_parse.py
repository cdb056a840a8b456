"""From a VaultConnection's JSON to its value. Raises InvalidSpecError with the field's path."""

import re
from collections.abc import Callable, Mapping
from typing import Final

from serviceidentity.domain.fields import Json, block, choice, count, label_selector, member, text, texts
from serviceidentity.domain.parse import meta_of
from serviceidentity.domain.vault.parse import VAULT_NAME
from serviceidentity.domain.vault.spec import (
    AllowedNamespaces,
    AppRoleAuth,
    Auth,
    CertificateAuth,
    ConnectionSpec,
    JwtAuth,
    KubernetesAuth,
    LoginAs,
    SecretKey,
    TokenAuth,
    VaultConnection,
)
from serviceidentity.errors import InvalidSpecError

MOST_IN_FLIGHT: Final = 256
_HOST: Final = r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])"
_ADDRESS: Final = re.compile(rf"https?://{_HOST}(?::[0-9]{{1,5}})?(?:/[A-Za-z0-9_.~-]+)*/?")
_PATH: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_NAMESPACE: Final = re.compile(r"[a-z0-9*]([a-z0-9*-]*[a-z0-9*])?")
_FILE: Final = re.compile(r"/[^\x00-\x1f]+")
_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"
_PRIVATE_KEY: Final = "PRIVATE KEY-----"


def vault_connection(body: Json) -> VaultConnection:
    """Read a VaultConnection as the API has it. Raises InvalidSpecError."""
    return VaultConnection(meta_of(body), connection_spec(block(body, "spec", "")))


def connection_spec(spec: Json) -> ConnectionSpec:
    """Read the spec of a VaultConnection. Raises InvalidSpecError."""
    address = text(spec, "address", "spec")
    if not _ADDRESS.fullmatch(address):
        raise InvalidSpecError("spec.address", 'must be an address such as "https://vault.example.org:8200"')
    tls, in_flight = block(spec, "tls", "spec"), count(block(spec, "limits", "spec"), "requestsInFlight", _LIMITS, 8)
    if in_flight > MOST_IN_FLIGHT:
        raise InvalidSpecError(f"{_LIMITS}.requestsInFlight", f"must be at most {MOST_IN_FLIGHT}")
    auth = _auth(block(spec, "auth", "spec"))
    if not address.startswith("https:"):
        for path, given in (
            ("tls", spec.get("tls") is not None),
            ("auth.certificate", isinstance(auth, CertificateAuth)),
        ):
            if given:
                raise InvalidSpecError(f"spec.{path}", "must be left out, because the address is not one of https")
    return ConnectionSpec(
        address=address.rstrip("/"),
        auth=auth,
        allowed=_allowed(block(spec, "allowedNamespaces", "spec")),
        ca=_ca(tls),
        ca_secret=_secret_key(tls, "caSecretRef", "spec.tls", "ca.crt") if tls.get("caSecretRef") is not None else None,
        server_name=text(tls, "serverName", "spec.tls", "") or None,
        vault_namespace=_vault_namespace(spec),
        in_flight=in_flight,
    )


_LIMITS: Final = "spec.limits"


def _ca(tls: Json) -> str | None:
    if tls.get("caBundle") is None:
        return None
    if tls.get("caSecretRef") is not None:
        raise InvalidSpecError("spec.tls.caSecretRef", "must be left out, because caBundle has the authorities")
    bundle = text(tls, "caBundle", "spec.tls")
    if _CERTIFICATE not in bundle or _PRIVATE_KEY in bundle:
        raise InvalidSpecError("spec.tls.caBundle", "must hold certificates in PEM, and no private key")
    return bundle


def _vault_namespace(spec: Json) -> str | None:
    namespace = text(spec, "namespace", "spec", "").strip("/")
    if namespace and not _PATH.fullmatch(namespace):
        raise InvalidSpecError("spec.namespace", 'must be a path such as "teams/shop"')
    return namespace or None


def _auth(given: Json) -> Auth:
    ways = [way for way in _WAYS if given.get(way) is not None]
    if len(ways) != 1:
        raise InvalidSpecError("spec.auth", f"must have exactly one of {', '.join(_WAYS)}")
    return _WAYS[ways[0]](block(given, ways[0], "spec.auth"), f"spec.auth.{ways[0]}")


def _kubernetes(given: Json, path: str) -> Auth:
    login_as = choice(given, "serviceAccount", path, LoginAs, LoginAs.IDENTITY)
    return KubernetesAuth(
        mount=_mount(given, path, "kubernetes"),
        role=_role_of(given, path, login_as),
        login_as=login_as,
        audiences=_audiences(given, path),
    )


def _jwt(given: Json, path: str) -> Auth:
    if (given.get("file") is None) is (given.get("serviceAccount") is None):
        raise InvalidSpecError(path, "must have exactly one of file and serviceAccount")
    audiences, mount = _audiences(given, path), _mount(given, path, "jwt")
    if bool(audiences) is (given.get("file") is not None):
        raise InvalidSpecError(f"{path}.audiences", "must be given with serviceAccount, and left out with file")
    if given.get("file") is not None:
        return JwtAuth(mount, _role(given, path), _file(given, path))
    login_as = member(LoginAs, given.get("serviceAccount"), f"{path}.serviceAccount")
    return KubernetesAuth(mount, _role_of(given, path, login_as), login_as, audiences, jwt=True)


def _token(given: Json, path: str) -> Auth:
    if (given.get("file") is None) is (given.get("secretRef") is None):
        raise InvalidSpecError(path, "must have exactly one of file and secretRef")
    if given.get("file") is not None:
        return TokenAuth(file=_file(given, path))
    return TokenAuth(secret=_secret_key(given, "secretRef", path, "token"))


def _app_role(given: Json, path: str) -> Auth:
    return AppRoleAuth(
        mount=_mount(given, path, "approle"),
        role_id=text(given, "roleID", path),
        secret_id=_secret_key(given, "secretIDSecretRef", path, "secret-id"),
    )


def _certificate(given: Json, path: str) -> Auth:
    return CertificateAuth(_mount(given, path, "cert"), _role(given, path), text(given, "secretName", path))


_WAYS: Final[Mapping[str, Callable[[Json, str], Auth]]] = {
    "kubernetes": _kubernetes,
    "jwt": _jwt,
    "token": _token,
    "appRole": _app_role,
    "certificate": _certificate,
}


def _allowed(given: Json) -> AllowedNamespaces:
    path = "spec.allowedNamespaces"
    names = texts(given, "names", path)
    for index, name in enumerate(names):
        if not _NAMESPACE.fullmatch(name):
            raise InvalidSpecError(
                f"{path}.names[{index}]", "must be a namespace's name, in which * stands for any characters"
            )
    selector = None
    if given.get("selector") is not None:
        selector = label_selector(block(given, "selector", path), f"{path}.selector")
    if not names and selector is None:
        raise InvalidSpecError(path, "must have names, a selector or both")
    return AllowedNamespaces(names, selector)


def _role(given: Json, path: str) -> str | None:
    if given.get("role") is None:
        return None
    role = text(given, "role", path)
    if not VAULT_NAME.fullmatch(role):
        raise InvalidSpecError(f"{path}.role", "must be letters, digits, dots, dashes and underscores")
    return role


def _role_of(given: Json, path: str, login_as: LoginAs) -> str | None:
    role = _role(given, path)
    if role is None and login_as is LoginAs.OPERATOR:
        raise InvalidSpecError(f"{path}.role", "must be given, because the operator logs in for all identities")
    return role


def _audiences(given: Json, path: str) -> tuple[str, ...]:
    audiences = texts(given, "audiences", path)
    if not all(audiences):
        raise InvalidSpecError(f"{path}.audiences", "must not be empty texts")
    return audiences


def _mount(given: Json, path: str, default: str) -> str:
    mount = text(given, "mount", path, default)
    if not _PATH.fullmatch(mount):
        raise InvalidSpecError(f"{path}.mount", "must be a path in Vault, without a slash at either end")
    return mount


def _file(given: Json, path: str) -> str:
    file = text(given, "file", path)
    if not _FILE.fullmatch(file):
        raise InvalidSpecError(f"{path}.file", "must be an absolute path")
    return file


def _secret_key(given: Json, field: str, path: str, default: str) -> SecretKey:
    reference, where = block(given, field, path), f"{path}.{field}"
    return SecretKey(text(reference, "name", where), text(reference, "key", where, default))
