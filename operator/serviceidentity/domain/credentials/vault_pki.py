"""Certificates that a role of a PKI engine signs: what is asked for, what the answer has to be, when it is replaced.

Their keys are made here. What the role decides on (usages, life, what else is in the subject) is its owner's business;
that the certificate is for our key and has the names that were asked for is examined.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from serviceidentity.domain.credentials import vault_made
from serviceidentity.domain.credentials.base import Due, Made, Observed, Reason
from serviceidentity.domain.credentials.remote_leaf import LeafRequest, has_unknown, may_sign
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import DEFAULT_USAGES, CertificateFacts
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyEncoding, PrivateKey
from serviceidentity.domain.pki.names import PlainNames, Subject, is_dns_name
from serviceidentity.domain.pki.requests import leaf_request
from serviceidentity.domain.schedule import format_time, renewal_time
from serviceidentity.domain.vault.content import ContentError
from serviceidentity.domain.vault.spec import PkiSource, VaultSecretSpec, VaultSpec
from serviceidentity.domain.vault.views import VaultOrder

FILES: Final = ("tls.crt", "tls.key", "ca.crt")
CHAIN, AUTHORITY = "chain", "authority"


def names_of(source: PkiSource) -> PlainNames:
    """Return the names to ask for. With none given it is the common name, which nobody looks at any more (RFC 9525)."""
    if not (source.dns_names or source.ip_addresses or source.uris) and is_dns_name(source.common_name):
        return PlainNames((source.common_name,))
    return PlainNames(source.dns_names, source.ip_addresses, source.uris)


def request_for(source: PkiSource, key: PrivateKey) -> LeafRequest:
    """Return the request to have signed. Raises PkiError when a name can't be encoded."""
    names = names_of(source)
    return LeafRequest(
        pem=leaf_request(Subject(source.common_name), names, DEFAULT_USAGES, key).decode(),
        common_name=source.common_name,
        dns_names=names.dns_names,
        email_addresses=(),
        ip_addresses=names.ip_addresses,
        uris=names.uris,
        lifetime=source.duration or timedelta(0),
    )


def examined(
    source: PkiSource, key: PrivateKey, certificate: str, above: Sequence[str], authority: str, now: datetime
) -> dict[str, str]:
    """Return chain and authority of what came back, in PEM. Raises PkiError with the first thing that is not right."""
    made, *_ = certificates.load_chain(certificate.encode())
    chain = (made, *(one for pem in above for one in certificates.load_chain(pem.encode())))
    top = certificates.load_chain(authority.encode())
    for check in CHECKS:
        if (problem := check(made, source, key, now)) is not None:
            raise PkiError(f"what Vault signed is not what was asked for: {problem}")
    if not _is_linked(chain, top):
        raise PkiError("what Vault signed does not lead to the authority that came with it")
    return {
        CHAIN: certificates.encode_chain(*chain).decode(),
        AUTHORITY: certificates.encode_chain(*top).decode(),
    }


def another_key(made: x509.Certificate, _source: PkiSource, key: PrivateKey, _now: datetime) -> str | None:
    """It is for a key that is not ours."""
    return None if certificates.key_matches(made, key) else "it has another key"


def unreadable(made: x509.Certificate, _source: PkiSource, _key: PrivateKey, _now: datetime) -> str | None:
    """It says something critical that nobody understands."""
    certificates.facts(made)
    return "it has a critical extension that is not known" if has_unknown(made) else None


def an_authority(made: x509.Certificate, _source: PkiSource, _key: PrivateKey, _now: datetime) -> str | None:
    """It may sign certificates or lists itself."""
    return "it is one of an authority" if may_sign(made) else None


def missing_names(made: x509.Certificate, source: PkiSource, _key: PrivateKey, _now: datetime) -> str | None:
    """It lacks a name. A role may add some: they are not ours to judge."""
    found = set(certificates.extension(made, x509.SubjectAlternativeName) or ())
    if missing := sorted(str(name.value) for name in set(names_of(source).to_x509() or ()) - found):
        return f"{missing[0]} is missing from its names; does the role allow it?"
    common = [str(part.value) for part in made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if common != [source.common_name]:
        return "it has another common name; does the role use that of the request (use_csr_common_name)?"
    return None


def another_time(made: x509.Certificate, _source: PkiSource, _key: PrivateKey, now: datetime) -> str | None:
    """It is not valid now."""
    begins, ends = made.not_valid_before_utc, made.not_valid_after_utc
    if begins > now:
        return f"it is not valid before {format_time(begins)}; do the clocks agree?"
    return f"it ended at {format_time(ends)}" if ends <= now else None


CHECKS: Final[tuple[Callable[[x509.Certificate, PkiSource, PrivateKey, datetime], str | None], ...]] = (
    another_key,
    unreadable,
    an_authority,
    missing_names,
    another_time,
)


def missing_data(_source: PkiSource, view: SecretView, _now: datetime) -> Due | None:
    """One of the files is not there."""
    for name in FILES:
        if not view.data.get(name):
            return Due(Reason.MISSING_DATA, f"{name} is missing from the Secret")
    return None


def invalid_key_pair(_source: PkiSource, view: SecretView, _now: datetime) -> Due | None:
    """Key and certificate can't be read, or do not belong together; or another authority is beside them."""
    try:
        chain = view.value("tls.crt")
        _, linked = _stored(chain, view.value("ca.crt"))
        if not certificates.key_matches(certificates.load_chain(chain)[0], keys.load(view.value("tls.key"))):
            return Due(Reason.INVALID_KEY_PAIR, "the private key does not belong to the certificate")
    except (PkiError, MalformedError):
        return Due(Reason.INVALID_KEY_PAIR, "the Secret does not hold a readable key and certificate chain")
    return None if linked else Due(Reason.INVALID_KEY_PAIR, "ca.crt is not of those that signed the certificate")


def expired(_source: PkiSource, view: SecretView, now: datetime) -> Due | None:
    """Past notAfter: renewal was not possible in time."""
    ends = _facts(view).not_after
    return Due(Reason.EXPIRED, f"the certificate expired at {format_time(ends)}") if now >= ends else None


def expires_soon(source: PkiSource, view: SecretView, now: datetime) -> Due | None:
    """Renewal time has come."""
    due = _renewal(source, view)
    return Due(Reason.RENEWING, f"renewal time {format_time(due)} has passed") if now >= due else None


REISSUE: Final[tuple[Callable[[PkiSource, SecretView, datetime], Due | None], ...]] = (
    missing_data,
    invalid_key_pair,
    expired,
    expires_soon,
)


class FromPki:
    """The way of certificates of a PKI engine."""

    def decide(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> Due | Held | None:
        source = _source(secret)
        due = next((due for check in REISSUE if (due := check(source, view, now)) is not None), None)
        return vault_made.unless_held(secret, seen, due)

    def first(self, secret: VaultSecretSpec, seen: Observed) -> Held | None:
        return vault_made.held(secret, seen)

    def order(self, secret: VaultSecretSpec, vault: VaultSpec) -> VaultOrder | None:
        source = _source(secret)
        key = keys.generate(source.profile)
        return VaultOrder(vault, secret, request_for(source, key), key)

    def content(self, secret: VaultSecretSpec, seen: Observed, made: Made | None) -> SecretContent:
        answer = vault_made.answer(made)
        if answer.key is None or answer.made is None:
            raise ContentError("Vault has signed nothing")
        data = {
            "tls.crt": str(answer.values[CHAIN]).encode(),
            "tls.key": keys.encode(answer.key, KeyEncoding.PKCS8),
            "ca.crt": str(answer.values[AUTHORITY]).encode(),
        }
        return SecretContent.of(secret.type, data, vault_made.record(answer.made))

    def deadline(self, secret: VaultSecretSpec, seen: Observed, view: SecretView, now: datetime) -> datetime | None:
        due = _renewal(_source(secret), view)
        return due if due > now else _facts(view).not_after

    def ends(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> datetime | None:
        try:
            return _facts(view).not_after
        except (MalformedError, PkiError):
            return None

    def report(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> Mapping[str, Any]:
        leaf = _facts(view)
        return {
            "certificate": {
                "serialNumber": leaf.serial_number,
                "notBefore": format_time(leaf.not_before),
                "notAfter": format_time(leaf.not_after),
                "renewalTime": format_time(_renewal(_source(secret), view)),
            }
        }

    def summary(self, secret: VaultSecretSpec, seen: Observed, view: SecretView) -> str:
        leaf = _facts(view)
        return f"certificate {leaf.serial_number} of {secret.source} is valid until {format_time(leaf.not_after)}"


def _renewal(source: PkiSource, view: SecretView) -> datetime:
    """When the Secret's certificate is to be replaced: by what was really granted, whatever was asked for."""
    leaf, made = _facts(view), vault_made.made_at(view)
    if made is None or not leaf.not_before <= made < leaf.not_after:
        made = leaf.not_before
    return renewal_time(made, leaf.not_after, source.renew_before, leaf.serial_number)


def _facts(view: SecretView) -> CertificateFacts:
    return _stored(view.value("tls.crt"), view.value("ca.crt"))[0]


@lru_cache(maxsize=2048)
def _stored(chain: bytes, authority: bytes) -> tuple[CertificateFacts, bool]:
    """Facts of the leaf, and whether it leads to the authority. Public data only, so it may be remembered."""
    found = certificates.load_chain(chain)
    return certificates.facts(found[0]), _is_linked(found, certificates.load_chain(authority))


def _is_linked(chain: Sequence[x509.Certificate], authority: Sequence[x509.Certificate]) -> bool:
    """Say whether each was signed by the next, and the last by the authority, if it is not that itself."""
    top = chain[-1]
    return all(certificates.signed_by(lower, upper) for lower, upper in pairwise(chain)) and any(
        top == one or certificates.signed_by(top, one) for one in authority
    )


def _source(secret: VaultSecretSpec) -> PkiSource:
    if not isinstance(secret.source, PkiSource):
        raise TypeError("not a secret of a PKI engine")
    return secret.source
