"""Making authorities: a key, a certificate, and what is written down about its life."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from serviceidentity.domain import ownership
from serviceidentity.domain.authority.records import (
    ACTIVATED_ANNOTATION,
    PREPARED_ANNOTATION,
    ROOT_ANNOTATION,
    SECRET_TYPE,
    SPIFFE_DOMAIN_ANNOTATION,
    Authority,
    Role,
)
from serviceidentity.domain.authority.steps import MakeAuthority
from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.model import AuthoritySpec, TrustDomain
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Subject, Validity
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import format_time

ROTATE_ROOT_ANNOTATION: Final = "serviceidentity.dev/rotate-root"
ROTATED_ROOT_ANNOTATION: Final = "serviceidentity.dev/rotated-root"
ACTIVATE_ANNOTATION: Final = "serviceidentity.dev/activate"
ACTIVATE_SEEN_ANNOTATION: Final = "serviceidentity.dev/activate-seen"
# By role: the annotation that asks for a new authority, and the one on its Secret that says which request it served.
ROTATIONS: Final[Mapping[Role, tuple[str, str]]] = {
    Role.ROOT: (ROTATE_ROOT_ANNOTATION, ROTATED_ROOT_ANNOTATION),
    Role.INTERMEDIATE: (ownership.ROTATE_ANNOTATION, ownership.ROTATED_ANNOTATION),
}


def issue(domain: TrustDomain, action: MakeAuthority, root: Authority | None, now: datetime) -> SecretContent:
    """Make the authority that `action` names: a key and its certificate, as the content of its Secret.

    `root` signs an intermediate. Raises PkiError when it can't.
    """
    spec = domain.root if action.role is Role.ROOT else domain.intermediate
    key = keys.generate(spec.profile)
    subject = subject_of(spec)
    if action.role is Role.ROOT:
        certificate = certificates.issue_root(subject, key, validity_of(spec, domain, None, now))
        anchor = certificate
    else:
        if root is None or not root.key_is_here:
            raise PkiError("an intermediate needs a root whose key is here")
        validity = validity_of(spec, domain, root, now)
        certificate = certificates.issue_intermediate(subject, key.public_key(), root.issuer, validity)
        anchor = root.certificate
    data = {
        "tls.crt": certificates.encode_chain(certificate),
        "tls.key": keys.encode(key, keys.KeyEncoding.PKCS8),
        "ca.crt": certificates.encode_chain(anchor),
    }
    return SecretContent.of(SECRET_TYPE, data, record_of(domain, action.role, now, root, activate=action.activate))


def subject_of(spec: AuthoritySpec) -> Subject:
    """Return the name of an authority that is made."""
    return Subject(common_name=spec.common_name, organizations=(spec.organization,) if spec.organization else ())


def validity_of(spec: AuthoritySpec, domain: TrustDomain, root: Authority | None, now: datetime) -> Validity:
    """Return the validity of an authority made now: backdated, and inside its issuer's."""
    not_before, not_after = now - domain.backdate, now + spec.duration
    if root is not None:
        not_before = max(not_before, root.not_before)
        not_after = min(not_after, root.not_after)
    return Validity(not_before, not_after)


def record_of(
    domain: TrustDomain, role: Role, now: datetime, root: Authority | None, *, activate: bool
) -> dict[str, str]:
    """Return what is written down on the Secret of an authority that comes now; `root` is above an intermediate."""
    asked, served = ROTATIONS[role]
    record = {SPIFFE_DOMAIN_ANNOTATION: domain.trust_domain, PREPARED_ANNOTATION: format_time(now)}
    if root is not None:
        record[ROOT_ANNOTATION] = str(root.generation)
    if activate:
        record[ACTIVATED_ANNOTATION] = format_time(now)
    for wanted, done in ((asked, served), (ACTIVATE_ANNOTATION, ACTIVATE_SEEN_ANNOTATION)):
        if wanted in domain.meta.annotations:
            record[done] = domain.meta.annotations[wanted]
    return record
