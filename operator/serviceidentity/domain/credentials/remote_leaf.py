"""Leaves that Vault or OpenBao signs: what is asked of it, and what its answer has to be before it is stored.

The engine's role may drop names, add some, or shorten the life. Less time is what its owner wants; everything else has
to be as asked for, because it is what others authenticate the service by. Nothing is believed that can be checked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from serviceidentity.domain.authority.remote import END_MARGIN
from serviceidentity.domain.credentials.leaf import Leaf, Order
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.names import extended_key_usage, key_usage
from serviceidentity.domain.pki.requests import leaf_request
from serviceidentity.domain.schedule import format_time


@dataclass(frozen=True, slots=True)
class LeafRequest:
    """What is asked of the PKI engine: a PKCS#10 request in PEM, for so long.

    Its names are there once more, for roles that do not read them from the request. No lifetime at all means that of
    the role.
    """

    pem: str
    common_name: str
    dns_names: tuple[str, ...]
    email_addresses: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    uris: tuple[str, ...]
    lifetime: timedelta


def request_for(order: Order, now: datetime) -> LeafRequest:
    """Return the request for an order. Raises PkiError when a name, subject field or usage can't be encoded."""
    names = order.names
    return LeafRequest(
        leaf_request(order.subject, names, order.usages, order.key).decode(),
        order.subject.common_name,
        names.dns_names,
        names.email_addresses,
        names.ip_addresses,
        (names.spiffe_id, *names.uris),
        order.validity.not_after - now,
    )


def examined(order: Order, answer: str, now: datetime) -> Leaf:
    """Return the leaf that came back for an order. Raises PkiError with the first thing that is not as asked for."""
    made = certificates.load_chain(answer.encode())[0]
    for check in CHECKS:
        if (problem := check(made, order, now)) is not None:
            raise PkiError(f"what Vault signed is not what was asked for: {problem}")
    return Leaf(certificates.encode_chain(made, *order.signer.chain), order.key)


def another_key(made: x509.Certificate, order: Order, _now: datetime) -> str | None:
    """It is for a key that is not ours."""
    return None if certificates.key_matches(made, order.key) else "it has another key"


def another_signer(made: x509.Certificate, order: Order, _now: datetime) -> str | None:
    """Another authority signed it than the one whose root is published."""
    if certificates.signed_by(made, order.signer.certificate):
        return None
    return "another authority signed it than the issuer that was named"


def an_authority(made: x509.Certificate, _order: Order, _now: datetime) -> str | None:
    """It may sign certificates or lists itself."""
    return "it is one of an authority" if may_sign(made) else None


def other_names(made: x509.Certificate, order: Order, _now: datetime) -> str | None:
    """It has not exactly the subject alternative names that were asked for."""
    found = set(certificates.extension(made, x509.SubjectAlternativeName) or ())
    wanted = set(order.names.to_x509())
    if missing := sorted(str(name.value) for name in wanted - found):
        return f"{missing[0]} is missing from its names; does the role allow it?"
    if found - wanted:
        return f"it has {len(found - wanted)} more names than were asked for"
    return None


def another_subject(made: x509.Certificate, order: Order, _now: datetime) -> str | None:
    """It has another common name, or lacks something of the subject. What a role adds to every subject may be there."""
    common = [str(part.value) for part in made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if common != ([order.subject.common_name] if order.subject.common_name else []):
        return "it has another common name; does the role use that of the request (use_csr_common_name)?"
    found = {(part.oid, part.value) for part in made.subject}
    missing = [part for part in order.subject.to_x509() if (part.oid, part.value) not in found]
    if missing:
        return f"the subject's {missing[0].oid._name} is missing; the role has to have it"  # noqa: SLF001
    return None


def other_usages(made: x509.Certificate, order: Order, _now: datetime) -> str | None:
    """It may not be used for what was asked for; or, in TLS, for more than that."""
    usage, wanted = _key_usage(made), key_usage(order.usages, keys.profile_of(order.key))
    if usage is None:
        return "it has no key usage; the role has to have key_usage"
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    if missing := [name for name in names if getattr(wanted, name) and not getattr(usage, name)]:
        return f"the key usage {missing[0].replace('_', ' ')} is missing; the role's key_usage has to have it"
    found = set(certificates.extension(made, x509.ExtendedKeyUsage) or ())
    asked = set(extended_key_usage(order.usages) or ())
    if found != asked:
        how = "less" if asked - found else "more"
        return f"its extended key usages are {how} than was asked for; see the role's server_flag and client_flag"
    return None


def another_time(made: x509.Certificate, order: Order, now: datetime) -> str | None:
    """It is not valid now, or for longer than was asked for."""
    begins, ends = made.not_valid_before_utc, made.not_valid_after_utc
    if begins > now:
        return f"it is not valid before {format_time(begins)}; do the clocks agree?"
    if ends <= now:
        return f"it ended at {format_time(ends)}"
    if ends > order.validity.not_after + END_MARGIN:
        return f"it ends at {format_time(ends)}, later than {format_time(order.validity.not_after)}"
    return None


def unreadable(made: x509.Certificate, _order: Order, _now: datetime) -> str | None:
    """It says something critical that nobody understands."""
    certificates.facts(made)
    return "it has a critical extension that is not known" if has_unknown(made) else None


CHECKS: Final[tuple[Callable[[x509.Certificate, Order, datetime], str | None], ...]] = (
    another_key,
    another_signer,
    unreadable,
    an_authority,
    other_names,
    another_subject,
    other_usages,
    another_time,
)


def may_sign(made: x509.Certificate) -> bool:
    """Say whether it is for an authority: it may sign certificates or lists itself. Raises PkiError."""
    constraints, usage = certificates.extension(made, x509.BasicConstraints), _key_usage(made)
    signs = usage is not None and (usage.key_cert_sign or usage.crl_sign)
    return signs or (constraints is not None and constraints.ca)


def has_unknown(made: x509.Certificate) -> bool:
    """Say whether it has a critical extension that is not known; call `facts` before, for those that can't be read."""
    return any(one.critical and isinstance(one.value, x509.UnrecognizedExtension) for one in made.extensions)


def _key_usage(made: x509.Certificate) -> x509.KeyUsage | None:
    return certificates.extension(made, x509.KeyUsage)
