"""From an object's JSON to its spec value.

The CRD's schema has already refused what it can express. This is the second line: whatever slips past it (an older
stored object, a schema installed by hand) ends as an InvalidSpecError that names the field, never as a crash.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from serviceidentity.domain import model
from serviceidentity.domain.encryption.parse import encrypted_values
from serviceidentity.domain.fields import Json, label_selector
from serviceidentity.domain.fields import block as _object
from serviceidentity.domain.fields import blocks as _objects
from serviceidentity.domain.fields import choice as _choice
from serviceidentity.domain.fields import count as _count
from serviceidentity.domain.fields import duration as _duration
from serviceidentity.domain.fields import flag as _flag
from serviceidentity.domain.fields import key_profile as _key_profile
from serviceidentity.domain.fields import member as _member
from serviceidentity.domain.fields import optional as _optional
from serviceidentity.domain.fields import text as _text
from serviceidentity.domain.fields import texts as _texts
from serviceidentity.domain.jwt.federation_parse import peers
from serviceidentity.domain.jwt.parse import jwt_spec, token_issuer
from serviceidentity.domain.model import (
    AuthoritySpec,
    BundleFormat,
    BundleSpec,
    CallerRule,
    CertificateSpec,
    CrlSpec,
    DeletionPolicy,
    HmacSpec,
    Identity,
    Meta,
    OutputFormat,
    PasswordRef,
    PrivateKeySpec,
    RevokedSpec,
    RolloutSpec,
    RootSource,
    RotationPolicy,
    SecretTemplate,
    StoreKind,
    Target,
    TrustDomain,
    VaultIssuer,
    VaultSigner,
    WorkloadKind,
)
from serviceidentity.domain.pki import crl
from serviceidentity.domain.pki.certificates import DEFAULT_USAGES
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyAlgorithm, KeyEncoding
from serviceidentity.domain.pki.names import Subject
from serviceidentity.domain.policy.parse import policy
from serviceidentity.domain.policy.spec import Compile, no_expressions
from serviceidentity.domain.schedule import parse_time
from serviceidentity.domain.vault.parse import VAULT_NAME, vault_spec
from serviceidentity.domain.vault.templates import CompileTemplate, no_templates
from serviceidentity.errors import InvalidSpecError

_SHORTEST_CRL: Final = timedelta(seconds=10)
_FIRST_UTC_TIME: Final = datetime(1950, 1, 1, tzinfo=UTC)  # RFC 5280 4.1.2.5.1
_VAULT_PATH: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")


def identity(body: Json, compile_template: CompileTemplate = no_templates) -> Identity:
    """Read a ServiceIdentity as the API has it, and compile its templates. Raises InvalidSpecError."""
    meta = meta_of(body)
    spec = _object(body, "spec", "")
    found = Identity(
        meta=meta,
        trust_domain=_text(_object(spec, "trustDomainRef", "spec"), "name", "spec.trustDomainRef", "default"),
        service_account=_text(spec, "serviceAccountName", "spec", meta.name),
        certificate=_optional(spec, "certificate", lambda block: _certificate(block, meta)),
        hmac=_optional(spec, "hmac", lambda block: _hmac(block, meta)),
        encrypted=_optional(spec, "encrypted", lambda block: encrypted_values(block, meta.name, _template)),
        callers=tuple(
            CallerRule(_text(item, "namespace", path, meta.namespace), _text(item, "name", path))
            for path, item in _objects(spec, "callers", "spec")
        ),
        deletion_policy=_choice(spec, "deletionPolicy", "spec", DeletionPolicy, DeletionPolicy.DELETE),
        suspend=_flag(spec, "suspend", "spec"),
        vault=_optional(spec, "vault", lambda block: vault_spec(block, meta.name, compile_template)),
        jwt=_optional(spec, "jwt", lambda block: jwt_spec(block, meta.name)),
        written=spec,
    )
    _distinct_secrets(found)
    return replace(found, rollout=_optional(spec, "rollout", lambda block: _rollout(block, found)))


def trust_domain(body: Json, compile_rule: Compile = no_expressions) -> TrustDomain:
    """Read a TrustDomain as the API has it, and compile the rules of its policy. Raises InvalidSpecError."""
    meta = meta_of(body)
    spec = _object(body, "spec", "")
    name = _text(spec, "trustDomain", "spec")
    domain = TrustDomain(
        meta=meta,
        trust_domain=name,
        root=_authority(spec, "root", f"{meta.name} root", timedelta(hours=87600)),
        intermediate=_authority(spec, "intermediate", f"{meta.name} intermediate", timedelta(hours=8760)),
        max_leaf_duration=_duration(spec, "maxLeafDuration", "spec", timedelta(hours=2160)),
        backdate=_duration(spec, "backdate", "spec", timedelta(minutes=5)),
        deletion_policy=_choice(spec, "deletionPolicy", "spec", DeletionPolicy, DeletionPolicy.RETAIN),
        propagation=_duration(spec, "propagation", "spec", timedelta(hours=1)),
        tainted=_tainted(spec),
        reissues_per_second=_count(spec, "reissuesPerSecond", "spec", 20),
        bundle=_optional(spec, "bundle", lambda block: _bundle(block, meta)),
        crl=_crl(spec),
        revoked=_revoked(spec),
        jwt=token_issuer(spec),
        peers=peers(spec, name),
        policy=policy(spec, compile_rule),
        leaves=_leaves(_object(spec, "leaves", "spec")),
    )
    if domain.leaves is not None:
        for path, given in (
            ("spec.root.secretRef", domain.root.secret_name),
            ("spec.intermediate.secretRef", domain.intermediate.secret_name),
            ("spec.intermediate.vault", domain.intermediate.vault),
        ):
            if given is not None:
                raise InvalidSpecError(path, "must be left out, because Vault signs the leaves")
        return domain
    if domain.intermediate.secret_name is not None and domain.intermediate.vault is not None:
        raise InvalidSpecError("spec.intermediate.secretRef", "must be left out, because Vault signs the intermediate")
    elsewhere = domain.intermediate.secret_name is not None or domain.intermediate.vault is not None
    if elsewhere and domain.root.secret_name is not None:
        raise InvalidSpecError("spec.root.secretRef", "must be left out, because the root comes with the intermediate")
    if domain.intermediate.duration > domain.root.duration:
        raise InvalidSpecError("spec.intermediate.duration", "must not be longer than spec.root.duration")
    if domain.max_leaf_duration > domain.intermediate.duration and domain.intermediate.secret_name is None:
        raise InvalidSpecError("spec.maxLeafDuration", "must not be longer than spec.intermediate.duration")
    return domain


def _tainted(spec: Json) -> dict[str, bool]:
    """Read which authorities are not to be trusted, by fingerprint, and whether they leave the bundle at once."""
    tainted: dict[str, bool] = {}
    for path, item in _objects(spec, "taintedAuthorities", "spec"):
        when = _text(item, "removeFromBundle", path, "WhenUnused")
        if when not in ("WhenUnused", "Immediately"):
            raise InvalidSpecError(f"{path}.removeFromBundle", "must be WhenUnused or Immediately")
        fingerprint = _text(item, "fingerprint", path).replace(":", "").lower()
        tainted[fingerprint] = tainted.get(fingerprint, False) or when == "Immediately"
    return tainted


def _bundle(block: Json, meta: Meta) -> BundleSpec:
    target, path = _object(block, "target", "spec.bundle"), "spec.bundle.target"
    formats = (_member(BundleFormat, value, f"{path}.formats") for value in _texts(target, "formats", path))
    selector = _object(target, "namespaceSelector", path)
    return BundleSpec(
        kind=_choice(target, "kind", path, StoreKind, StoreKind.CONFIG_MAP),
        name=_text(target, "name", path, f"{meta.name}-trust-bundle"),
        selector=None
        if target.get("namespaceSelector") is None
        else label_selector(selector, f"{path}.namespaceSelector"),
        formats=frozenset(formats) | {BundleFormat.PEM},
        truststore_password=_text(target, "truststorePassword", path, "changeit"),
        template=_template(target, path, "template"),
        extra_roots=tuple(_root_source(item, where) for where, item in _objects(block, "extraRoots", "spec.bundle")),
    )


def _root_source(item: Json, path: str) -> RootSource:
    given = [field for field in ("pem", "configMapRef", "secretRef") if item.get(field) is not None]
    if len(given) != 1:
        raise InvalidSpecError(path, "must have exactly one of pem, configMapRef and secretRef")
    where = path.removeprefix("spec.bundle.")
    if given == ["pem"]:
        return RootSource(where, pem=_text(item, "pem", path))
    ref, kind = _object(item, given[0], path), StoreKind.SECRET if given == ["secretRef"] else StoreKind.CONFIG_MAP
    at = f"{path}.{given[0]}"
    return RootSource(where, kind=kind, name=_text(ref, "name", at), key=_text(ref, "key", at, "ca.crt"))


def _crl(spec: Json) -> CrlSpec:
    path = "spec.crl"
    block = _object(spec, "crl", "spec")
    duration = _duration(block, "duration", path, timedelta(hours=72))
    if duration < _SHORTEST_CRL:
        raise InvalidSpecError(f"{path}.duration", "must be at least 10s")
    # Two thirds, not one: when a list has ended, whoever checks it refuses everyone at once.
    renew_before = _duration(block, "renewBefore", path, duration * 2 / 3)
    if renew_before >= duration:
        raise InvalidSpecError(f"{path}.renewBefore", "must be shorter than duration")
    return CrlSpec(always=spec.get("crl") is not None, duration=duration, renew_before=renew_before)


def _revoked(spec: Json) -> tuple[RevokedSpec, ...]:
    return tuple(_revoked_certificate(item, path) for path, item in _objects(spec, "revokedCertificates", "spec"))


def _revoked_certificate(item: Json, path: str) -> RevokedSpec:
    try:
        serial = crl.serial_of(_text(item, "serialNumber", path))
    except PkiError as error:
        raise InvalidSpecError(f"{path}.serialNumber", str(error)) from None
    reason = _text(item, "reason", path, crl.UNSPECIFIED)
    if reason not in crl.REASONS:
        raise InvalidSpecError(f"{path}.reason", "must be one of " + ", ".join(crl.REASONS))
    time = _text(item, "revocationTime", path, "")
    try:
        revoked_at = parse_time(time) if time else None
    except ValueError:
        raise InvalidSpecError(f"{path}.revocationTime", "must be a time such as 2026-01-31T12:00:00Z") from None
    if revoked_at is not None and revoked_at < _FIRST_UTC_TIME:
        raise InvalidSpecError(f"{path}.revocationTime", "must not be before 1950")
    issuer = _text(item, "issuerFingerprint", path, "").replace(":", "").lower()
    return RevokedSpec(serial, reason, revoked_at, issuer or None)


def meta_of(body: Json) -> Meta:
    """Read the part of the metadata that decisions depend on."""
    meta = body.get("metadata") or {}
    return Meta(
        namespace=meta.get("namespace") or "",
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation") or 0,
        annotations=dict(meta.get("annotations") or {}),
        deleting=bool(meta.get("deletionTimestamp")),
        labels=dict(meta.get("labels") or {}),
        created=meta.get("creationTimestamp") or "",
    )


def _distinct_secrets(found: Identity) -> None:
    """Two credentials in one Secret would overwrite each other in turn."""
    taken = {found.keyring_secret_name}
    named = [
        (f"spec.{field}", block)
        for field, block in (("certificate", found.certificate), ("hmac", found.hmac), ("encrypted", found.encrypted))
    ]
    names = [(path, block.secret_name) for path, block in named if block is not None]
    if found.vault is not None:
        names += [(f"spec.vault.secrets[{i}]", secret.secret_name) for i, secret in enumerate(found.vault.secrets)]
    if found.jwt is not None:
        names += [("spec.jwt", found.jwt.key.secret_name)] if found.jwt.key else []
        names += [(f"spec.jwt.tokens[{i}]", token.secret_name) for i, token in enumerate(found.jwt.tokens)]
    for path, name in names:
        if name in taken:
            raise InvalidSpecError(f"{path}.secretName", "is the name of another Secret of this identity")
        taken.add(name)


def _certificate(block: Json, meta: Meta) -> CertificateSpec:
    path = "spec.certificate"
    duration = _duration(block, "duration", path, timedelta(hours=24))
    if duration <= timedelta(0):
        raise InvalidSpecError(f"{path}.duration", "must be longer than nothing")
    renew_before = _duration(block, "renewBefore", path) if "renewBefore" in block else None
    if renew_before is not None and renew_before >= duration:
        raise InvalidSpecError(f"{path}.renewBefore", "must be shorter than duration")
    percentage = block.get("renewBeforePercentage")
    if percentage is not None:
        if not isinstance(percentage, int) or not 1 <= percentage <= 99:  # noqa: PLR2004  # a percentage
            raise InvalidSpecError(f"{path}.renewBeforePercentage", "must be 1 to 99")
        renew_before = duration * percentage / 100
    password = _object(block, "keystorePasswordSecretRef", path)
    password_path = f"{path}.keystorePasswordSecretRef"
    return CertificateSpec(
        secret_name=_text(block, "secretName", path, f"{meta.name}-tls"),
        dns_names=_texts(block, "dnsNames", path),
        ip_addresses=_texts(block, "ipAddresses", path),
        uris=_texts(block, "uris", path),
        email_addresses=_texts(block, "emailAddresses", path),
        usages=_texts(block, "usages", path) or DEFAULT_USAGES,
        subject=_subject(_object(block, "subject", path), _text(block, "commonName", path, meta.name)),
        duration=duration,
        renew_before=renew_before,
        private_key=_private_key(_object(block, "privateKey", path), f"{path}.privateKey"),
        output_formats=frozenset(
            _member(OutputFormat, value, f"{path}.outputFormats") for value in _texts(block, "outputFormats", path)
        ),
        keystore_password=PasswordRef(
            _text(password, "name", password_path), _text(password, "key", password_path, "password")
        )
        if password
        else None,
        template=_template(block, path),
    )


def _subject(block: Json, common_name: str) -> Subject:
    path = "spec.certificate.subject"
    return Subject(
        common_name=common_name,
        organizations=_texts(block, "organizations", path),
        organizational_units=_texts(block, "organizationalUnits", path),
        countries=_texts(block, "countries", path),
        provinces=_texts(block, "provinces", path),
        localities=_texts(block, "localities", path),
        street_addresses=_texts(block, "streetAddresses", path),
        postal_codes=_texts(block, "postalCodes", path),
        serial_number=_text(block, "serialNumber", path, "") or None,
    )


def _private_key(block: Json, path: str) -> PrivateKeySpec:
    encoding = _choice(block, "encoding", path, KeyEncoding, KeyEncoding.PKCS8)
    profile = _key_profile(block, path)
    if profile.algorithm is KeyAlgorithm.ED25519 and encoding is KeyEncoding.PKCS1:
        raise InvalidSpecError(f"{path}.encoding", "an Ed25519 key has only the PKCS8 encoding")
    return PrivateKeySpec(
        profile=profile,
        encoding=encoding,
        rotation_policy=_choice(block, "rotationPolicy", path, RotationPolicy, RotationPolicy.ALWAYS),
    )


def _hmac(block: Json, meta: Meta) -> HmacSpec:
    path = "spec.hmac"
    spec = HmacSpec(
        secret_name=_text(block, "secretName", path, f"{meta.name}-hmac"),
        service_id=_text(block, "serviceID", path, meta.name),
        rotate_every=_duration(block, "rotateEvery", path, timedelta(hours=720)),
        overlap=_duration(block, "overlap", path, timedelta(hours=24)),
        publish_before=_duration(block, "publishBefore", path, timedelta(minutes=2)),
        verifiers=tuple(
            model.identity_key(_text(item, "namespace", where, meta.namespace), _text(item, "name", where))
            for where, item in _objects(block, "verifiers", path)
        ),
        template=_template(block, path),
    )
    if spec.overlap + spec.publish_before > spec.rotate_every or spec.rotate_every <= timedelta(0):
        raise InvalidSpecError(f"{path}.rotateEvery", "must be at least overlap plus publishBefore")
    return spec


def _rollout(block: Json, found: Identity) -> RolloutSpec:
    path = "spec.rollout"
    blocks: dict[str, object] = {
        "Certificate": found.certificate,
        "HMAC": found.hmac,
        "Keyring": found.callers,
        "Vault": found.vault,
    }
    blocks |= {"Encrypted": found.encrypted}
    blocks |= {"JWT": found.jwt and found.jwt.key, "Tokens": found.jwt and found.jwt.tokens}
    named = _texts(block, "credentials", path)
    for name in named:
        if not blocks.get(name):
            raise InvalidSpecError(f"{path}.credentials", f"{name} is nothing that this identity asks for")
    spec = RolloutSpec(
        targets=tuple(
            Target(_member(WorkloadKind, item.get("kind"), f"{where}.kind"), _text(item, "name", where))
            for where, item in _objects(block, "targets", path)
        ),
        # A token is replaced every few minutes, so who reads it only once has to say so.
        credentials=frozenset(name.lower() for name in named or blocks.keys() - {"Tokens"}),
        min_interval=_duration(block, "minInterval", path, timedelta(minutes=10)),
        settle=_duration(block, "settle", path, timedelta(seconds=10)),
    )
    if not spec.targets or len(set(spec.targets)) < len(spec.targets):
        raise InvalidSpecError(f"{path}.targets", "must name at least one workload, and none twice")
    if found.certificate is not None and "certificate" in spec.credentials:
        lead = found.certificate.renew_before or found.certificate.duration / 3
        if spec.min_interval + spec.settle > lead:
            raise InvalidSpecError(
                f"{path}.minInterval", "with settle, must not be longer than a certificate is renewed before its end"
            )
    if found.jwt is not None and "tokens" in spec.credentials:
        shortest = min(token.lifetime for token in found.jwt.tokens)
        if spec.min_interval + spec.settle > shortest / 3:
            raise InvalidSpecError(
                f"{path}.minInterval", "with settle, must not be longer than a third of a token's ttl"
            )
    return spec


def _authority(spec: Json, field: str, common_name: str, duration: timedelta) -> AuthoritySpec:
    path = f"spec.{field}"
    block = _object(spec, field, "spec")
    reference = _object(block, "secretRef", path) if block.get("secretRef") is not None else None
    return AuthoritySpec(
        common_name=_text(block, "commonName", path, common_name[:64]),
        organization=_text(block, "organization", path, "") or None,
        duration=_duration(block, "duration", path, duration),
        profile=_key_profile(_object(block, "privateKey", path), f"{path}.privateKey"),
        renew_before=_duration(block, "renewBefore", path) if "renewBefore" in block else None,
        secret_name=None if reference is None else _text(reference, "name", f"{path}.secretRef"),
        vault=_vault_issuer(_object(block, "vault", path), f"{path}.vault") if block.get("vault") is not None else None,
    )


def _leaves(block: Json) -> VaultSigner | None:
    """Read who signs leaves, when that is not an authority that is here."""
    if block.get("vault") is None:
        return None
    path = "spec.leaves.vault"
    vault = _object(block, "vault", "spec.leaves")
    at, role = _vault_issuer(vault, path), _text(vault, "role", path)
    if not VAULT_NAME.fullmatch(role):
        raise InvalidSpecError(f"{path}.role", "must be the name of a role: letters, digits, dots, dashes, underscores")
    return VaultSigner(at.mount, at.issuer, role)


def _vault_issuer(block: Json, path: str) -> VaultIssuer:
    mount, issuer = _text(block, "mount", path, "pki"), _text(block, "issuer", path, "default")
    for field, value in (("mount", mount), ("issuer", issuer)):
        if not _VAULT_PATH.fullmatch(value) or (field == "issuer" and "/" in value):
            raise InvalidSpecError(f"{path}.{field}", "must be a path of letters, digits, dots, dashes and underscores")
    return VaultIssuer(mount, issuer)


def _template(block: Json, path: str, field: str = "secretTemplate") -> SecretTemplate:
    template = _object(block, field, path)
    return SecretTemplate(
        labels=dict(_object(template, "labels", f"{path}.{field}")),
        annotations=dict(_object(template, "annotations", f"{path}.{field}")),
    )
