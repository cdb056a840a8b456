"""One valid object of each kind; a test changes only what it is about."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from serviceidentity.domain import authority, parse, plan
from serviceidentity.domain.authority import Hierarchy, MakeAuthority, Role, Trust
from serviceidentity.domain.credentials import CREDENTIALS, leaf
from serviceidentity.domain.credentials.base import Credential, Due, Observed, Reason
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.model import Identity, TrustDomain
from serviceidentity.domain.vault.connection_parse import vault_connection
from serviceidentity.domain.vault.spec import ConnectionSpec

T0 = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CERTIFICATE, HMAC, KEYRING, ENCRYPTED, JWT = CREDENTIALS


def identity_body(spec: Mapping[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    metadata = {"name": "order-service", "namespace": "shop", "uid": "uid-1", "generation": 1, "resourceVersion": "5"}
    return {"metadata": metadata | meta, "spec": dict(spec if spec is not None else {"certificate": {}, "hmac": {}})}


def identity(spec: Mapping[str, Any] | None = None, **meta: Any) -> Identity:
    return parse.identity(identity_body(spec, **meta))


def trust_domain_body(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "default", "uid": "uid-td", "generation": 1, "resourceVersion": "3"}
    return {"metadata": metadata, "spec": {"trustDomain": "example.org"} | spec}


def vault_connection_body(name: str = "default", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-vc-{name}", "generation": 1, "resourceVersion": "4"}
    said = {"address": "https://vault.example:8200", "auth": {"kubernetes": {}}, "allowedNamespaces": {"names": ["*"]}}
    return {"metadata": metadata, "spec": said | spec}


def connection(**spec: Any) -> ConnectionSpec:
    return vault_connection(vault_connection_body(**spec)).spec


def domain(**spec: Any) -> TrustDomain:
    return parse.trust_domain(trust_domain_body(**spec))


def view_of(
    content: SecretContent, name: str, namespace: str = "shop", labels: Mapping[str, str] | None = None, **changes: Any
) -> SecretView:
    view = SecretView(
        namespace=namespace,
        name=name,
        uid=f"uid-{name}",
        resource_version=10,
        type=content.type,
        labels=dict(labels or {}),
        annotations=dict(content.annotations),
        owners=(),
        data=dict(content.data),
    )
    return replace(view, **changes)


def make_authority(
    owner: TrustDomain, role: Role, generation: int, root: Any, now: datetime, *, activate: bool = True
) -> authority.Authority:
    name = authority.authority_name(owner.meta.name, role, generation)
    content = authority.issue(owner, MakeAuthority(role, generation, name, "", "", activate=activate), root, now)
    return stored_authority(content, owner, role, generation)


def stored_authority(content: SecretContent, owner: TrustDomain, role: Role, generation: int) -> authority.Authority:
    name = authority.authority_name(owner.meta.name, role, generation)
    labels = {authority.ROLE_LABEL: role.value, authority.GENERATION_LABEL: str(generation)}
    return authority.read_authority(view_of(content, name, "system", labels))


def authorities(owner: TrustDomain, now: datetime = T0) -> tuple[authority.Authority, ...]:
    root = make_authority(owner, Role.ROOT, 1, None, now)
    return (root, make_authority(owner, Role.INTERMEDIATE, 1, root, now))


def trust(now: datetime = T0, **spec: Any) -> Trust:
    owner = domain(**spec)
    found = authority.trust_of(Hierarchy(owner, authorities(owner, now)), now)
    assert isinstance(found, Trust)
    return found


TRUST = trust()


def observed(spec: Mapping[str, Any] | None = None, trusted: Trust | Held = TRUST, **changes: Any) -> Observed:
    """An identity that nothing was issued for yet."""
    return replace(Observed(identity=identity(spec), trust=trusted), **changes)


def rendered(
    credential: Credential, seen: Observed, due: Due, now: datetime, password: bytes | None = None
) -> SecretContent:
    """What is written: ordered, signed here, assembled."""
    order = credential.order(seen, due, now)
    return credential.render(seen, due, now, password, leaf.sign(order) if order is not None else None)


def issue(seen: Observed, credential: Credential, now: datetime = T0) -> Observed:
    """What is observed after the credential was written."""
    due = Due(Reason.DOES_NOT_EXIST, "")
    content = rendered(credential, seen, due, now)
    metadata = plan.metadata_of(seen, credential, content)
    name = credential.secret_name(seen.identity)
    view = view_of(content, name, labels=metadata.labels)
    view = replace(view, annotations=metadata.annotations, owners=metadata.owners)
    return replace(seen, contents={**seen.contents, name: view})


def issued(spec: Mapping[str, Any] | None = None, now: datetime = T0, **changes: Any) -> Observed:
    """An identity with everything that it asks for."""
    seen = observed(spec, **changes)
    for credential in CREDENTIALS:
        if credential.requested(seen.identity):
            seen = issue(seen, credential, now)
    return seen


def with_spec(seen: Observed, spec: Mapping[str, Any], **meta: Any) -> Observed:
    """The same, after the user changed the spec."""
    return replace(seen, identity=identity(spec, **meta))


def with_data(seen: Observed, name: str, **data: str | None) -> Observed:
    """The same, with other data in a Secret; keys are written with dashes for underscores replaced by dots."""
    view = seen.contents[name]
    changed = {**view.data, **{key.replace("_", "."): value for key, value in data.items() if value is not None}}
    for key, value in data.items():
        if value is None:
            changed.pop(key.replace("_", "."), None)
    return replace(seen, contents={**seen.contents, name: replace(view, data=changed)})
