"""The mTLS certificate: when it is re-issued, and what its Secret holds."""

import json
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from cryptography import x509

from serviceidentity.domain import ownership
from serviceidentity.domain.authority import RemoteIssuer, Trust
from serviceidentity.domain.credentials import revocation
from serviceidentity.domain.credentials.base import Check, Due, Made, Observed, Reason, first_due
from serviceidentity.domain.credentials.keystores import (
    data_keys,
    encode_formats,
    generated_password,
    keystores_open,
    needs_password,
    plain_formats_agree,
)
from serviceidentity.domain.credentials.leaf import Leaf, Order
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import CertificateSpec, Identity, RotationPolicy, SecretTemplate, spiffe_id
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import CertificateFacts, Issuer, SubjectAltNames, Validity
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import format_duration, format_time, parse_time, renewal_time

SECRET_TYPE: Final = "kubernetes.io/tls"  # noqa: S105  # a Secret's type, not a secret
REQUEST_ANNOTATION: Final = "serviceidentity.dev/certificate-request"
OUTPUT_ANNOTATION: Final = "serviceidentity.dev/certificate-output"
ISSUED_ANNOTATION: Final = "serviceidentity.dev/issued-at"
LONGEST_BACKDATE: Final = timedelta(hours=1)  # the schema's limit for a trust domain's `backdate`
REVISION_ANNOTATION: Final = "serviceidentity.dev/revision"


def request_of(identity: Identity, spec: CertificateSpec, trust_domain: str) -> dict[str, Any]:
    """Return what a certificate is issued for, as it is recorded on its Secret; absent fields are defaults."""
    subject = {
        "organizations": spec.subject.organizations,
        "organizationalUnits": spec.subject.organizational_units,
        "countries": spec.subject.countries,
        "provinces": spec.subject.provinces,
        "localities": spec.subject.localities,
        "streetAddresses": spec.subject.street_addresses,
        "postalCodes": spec.subject.postal_codes,
        "serialNumber": spec.subject.serial_number,
    }
    request = {
        "spiffeID": spiffe_id(trust_domain, identity.meta.namespace, identity.service_account),
        "commonName": spec.common_name,
        "subject": {name: value for name, value in subject.items() if value},
        "dnsNames": sorted(spec.dns_names),
        "ipAddresses": sorted(spec.ip_addresses),
        "uris": sorted(spec.uris),
        "emailAddresses": sorted(spec.email_addresses),
        "usages": sorted(spec.usages),
        "duration": format_duration(spec.duration),
        "privateKey": f"{spec.private_key.profile.algorithm}/{spec.private_key.profile.size}",
    }
    return {name: value for name, value in request.items() if value}


def output_of(spec: CertificateSpec) -> str:
    """Return the form that the Secret is written in, as it is recorded on it."""
    password = f"{spec.keystore_password.name}/{spec.keystore_password.key}" if spec.keystore_password else ""
    return ",".join([spec.private_key.encoding, *sorted(spec.output_formats), password]).rstrip(",")


@lru_cache(maxsize=2048)
def _chain_facts(chain: bytes) -> tuple[CertificateFacts, CertificateFacts]:
    """Facts of leaf and issuer. Public data only, so it may be remembered."""
    leaf, issuer, *_ = (*certificates.load_chain(chain), None)
    if issuer is None:
        raise MalformedError("tls.crt has no issuer after the leaf")
    return certificates.facts(leaf), _issuer_facts(issuer)


@lru_cache(maxsize=64)
def _issuer_facts(issuer: x509.Certificate) -> CertificateFacts:
    """All leaves of a trust domain have the same few issuers."""
    return certificates.facts(issuer)


@lru_cache(maxsize=2048)
def _anchored(chain: bytes, bundle: bytes) -> bool:
    """Say whether each certificate signed the one below, and a root of the bundle the last."""
    *_, top = certs = certificates.load_chain(chain)
    return all(certificates.signed_by(lower, upper) for lower, upper in pairwise(certs)) and any(
        certificates.signed_by(top, root) for root in certificates.load_chain(bundle)
    )


def leaf_facts(view: SecretView) -> CertificateFacts:
    """Return the facts of the Secret's leaf. Raises MalformedError or PkiError."""
    return _chain_facts(view.value("tls.crt"))[0]


def missing_data(_seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """One of the three files is not there."""
    for name in ("tls.crt", "tls.key", "ca.crt"):
        if not view.data.get(name):
            return Due(Reason.MISSING_DATA, f"{name} is missing from the Secret")
    return None


def invalid_key_pair(_seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """Key and certificate can't be read, or do not belong together."""
    try:
        key = keys.load(view.value("tls.key"))
        chain = view.value("tls.crt")
        _chain_facts(chain)
        if not certificates.key_matches(certificates.load_chain(chain)[0], key):
            return Due(Reason.INVALID_KEY_PAIR, "the private key does not belong to the certificate")
    except (PkiError, MalformedError):
        return Due(Reason.INVALID_KEY_PAIR, "the Secret does not hold a readable key and certificate chain")
    return None


def missing_output(seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """A format that was asked for is not there, or can't be opened with the password beside it; the key pair stays."""
    spec = _spec(seen)
    if _output(view) != output_of(spec):
        return None
    for name in data_keys(spec.output_formats):
        if not view.data.get(name):
            return Due(Reason.OUTPUT_CHANGED, f"{name} is missing from the Secret", fresh=False)
    try:
        agree = plain_formats_agree(view, keys.load(view.value("tls.key")))
    except MalformedError:
        agree = False
    if not agree:
        return Due(Reason.OUTPUT_CHANGED, "an output format does not hold the certificate's own key", fresh=False)
    if needs_password(spec) and spec.keystore_password is None and not keystores_open(view):
        return Due(Reason.OUTPUT_CHANGED, "the keystores do not open with the password beside them", fresh=False)
    return None


def not_the_request(_seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """The certificate is not for what is recorded beside it: somebody put another one there."""
    found = leaf_facts(view)
    recorded = _recorded_request(view)
    same = (
        found.spiffe_id == recorded.get("spiffeID")
        and (found.common_name or "") == recorded.get("commonName", "")
        and sorted(found.dns_names) == recorded.get("dnsNames", [])
    )
    return None if same else Due(Reason.SECRET_MISMATCH, "the certificate is not the one that was issued here")


def incorrect_issuer(seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """The chain does not lead to a root of the trust domain."""
    if not isinstance(seen.trust, Trust):
        return None
    chain = view.value("tls.crt")
    _chain_facts(chain)  # what can't be read was not just issued by someone else
    if not _anchored(chain, seen.trust.bundle):
        return Due(Reason.INCORRECT_ISSUER, "the certificate was not issued by the trust domain's authorities")
    return None


def issuer_tainted(seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """The authority that signed it is not to be trusted any more."""
    if isinstance(seen.trust, Trust) and _chain_facts(view.value("tls.crt"))[1].fingerprint in seen.trust.tainted:
        return Due(Reason.ISSUER_TAINTED, "the authority that signed the certificate is tainted")
    return None


def revoked(seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """Revocation was asked for; or the certificate is on a revocation list, whoever put it there."""
    if ownership.revocation_requested(seen.identity.meta, view):
        return Due(Reason.REVOKED, "revocation asked for by annotation")
    if is_listed(seen, view):
        return Due(Reason.REVOKED, f"certificate {leaf_facts(view).serial_number} is revoked")
    return None


def request_changed(seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """The spec asks for another certificate than the one recorded."""
    recorded = _recorded_request(view)
    domain = seen.trust.domain.trust_domain if isinstance(seen.trust, Trust) else _trust_domain_of(recorded)
    wanted = request_of(seen.identity, _spec(seen), domain)
    changed = sorted(name for name in wanted.keys() | recorded.keys() if _listed(wanted, name) != recorded.get(name))
    return Due(Reason.REQUEST_CHANGED, f"changed in the spec: {', '.join(changed)}") if changed else None


def rotation_requested(seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """The rotate annotation has a new value."""
    if ownership.rotation_requested(seen.identity.meta, view):
        return Due(Reason.ROTATION_REQUESTED, "rotation asked for by annotation")
    return None


def expired(_seen: Observed, view: SecretView, now: datetime) -> Due | None:
    """Past notAfter, or its issuer is: renewal was not possible in time."""
    leaf, issuer = _chain_facts(view.value("tls.crt"))
    if now >= min(leaf.not_after, issuer.not_after):
        return Due(Reason.EXPIRED, f"the certificate expired at {format_time(leaf.not_after)}")
    return None


def expires_soon(seen: Observed, view: SecretView, now: datetime) -> Due | None:
    """Renewal time has come, and a new certificate would live longer than this one."""
    due = renewal(seen, view)
    if now < due:
        return None
    signer = seen.trust.signer if isinstance(seen.trust, Trust) else None
    if (
        isinstance(seen.trust, Trust)
        and signer is not None
        and not isinstance(signer, Held)
        and not _would_outlive(seen, signer, leaf_facts(view), now)
    ):
        return None
    return Due(Reason.RENEWING, f"renewal time {format_time(due)} has passed")


def output_changed(seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """Other formats or another encoding are asked for; the key pair stays."""
    if _output(view) != output_of(_spec(seen)):
        return Due(Reason.OUTPUT_CHANGED, "output formats, key encoding or keystore password changed", fresh=False)
    return None


def bundle_changed(seen: Observed, view: SecretView, _now: datetime) -> Due | None:
    """The trust domain publishes other roots now; the key pair stays."""
    if isinstance(seen.trust, Trust) and view.value("ca.crt") != seen.trust.bundle:
        return Due(Reason.TRUST_BUNDLE_CHANGED, "the trust domain's roots changed", fresh=False)
    return None


# What was written or examined by this process is not examined again: it can only become due.
DUE: Final[tuple[Check, ...]] = (
    revoked,
    incorrect_issuer,
    issuer_tainted,
    request_changed,
    rotation_requested,
    expired,
    expires_soon,
    output_changed,
    bundle_changed,
)
EXAMINED: Final[tuple[Check, ...]] = (
    missing_data,
    invalid_key_pair,
    not_the_request,
    revoked,
    incorrect_issuer,
    issuer_tainted,
    request_changed,
    rotation_requested,
    expired,
    expires_soon,
    missing_output,
    output_changed,
    bundle_changed,
)


class Certificate:
    """The credential `spec.certificate`."""

    name = revocation.CREDENTIAL
    condition = "CertificateReady"
    status_field = "certificate"
    listed = False
    governed = True

    def requested(self, identity: Identity) -> bool:
        return identity.certificate is not None

    def secret_name(self, identity: Identity) -> str:
        return identity.certificate.secret_name if identity.certificate else ""

    def template(self, identity: Identity) -> SecretTemplate:
        return identity.certificate.template if identity.certificate else SecretTemplate()

    def decide(self, seen: Observed, now: datetime) -> Due | Held | None:
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None:
            due: Due | None = Due(Reason.DOES_NOT_EXIST, "the Secret does not exist yet")
        else:
            due = first_due(DUE if view.name in seen.known_good else EXAMINED, seen, view, now)
        if due is None or not due.fresh:
            return due
        if isinstance(seen.trust, Held):
            return seen.trust
        if isinstance(seen.trust.signer, Held):
            return seen.trust.signer
        spec, limit = _spec(seen), seen.trust.domain.max_leaf_duration
        if spec.duration > limit:
            return Held(
                "DurationNotAllowed",
                f"duration {format_duration(spec.duration)} is longer than the trust domain's maxLeafDuration "
                f"{format_duration(limit)}",
            )
        return due

    def meanwhile(self, seen: Observed, now: datetime) -> Due | None:
        """Trust is published before anyone can sign: a new root must be everywhere first."""
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None or (view.name not in seen.known_good and missing_data(seen, view, now)):
            return None
        if view.name not in seen.known_good and invalid_key_pair(seen, view, now):
            return None
        return bundle_changed(seen, view, now)

    def order(self, seen: Observed, due: Due, now: datetime) -> Order | None:
        spec, trust, view = _spec(seen), seen.trust, seen.contents.get(self.secret_name(seen.identity))
        if not due.fresh and view is not None:
            return None
        if not isinstance(trust, Trust) or isinstance(trust.signer, Held):
            raise PkiError("nobody signs for the trust domain now")
        # Whatever the certificate is issued for: what is asked to be revoked now is neither kept nor forgotten.
        over = view is not None and _must_go(seen, view, now)
        key = (None if over else _reusable_key(spec, view)) or keys.generate(spec.private_key.profile)
        names = SubjectAltNames(
            spiffe_id=request_of(seen.identity, spec, trust.domain.trust_domain)["spiffeID"],
            dns_names=spec.dns_names,
            ip_addresses=spec.ip_addresses,
            uris=spec.uris,
            email_addresses=spec.email_addresses,
        )
        validity = _validity(spec, trust, trust.signer, now)
        return Order(spec.subject, names, spec.usages, validity, trust.signer, key)

    def render(
        self, seen: Observed, due: Due, now: datetime, password: bytes | None, made: Made | None = None
    ) -> SecretContent:
        spec, view = _spec(seen), seen.contents.get(self.secret_name(seen.identity))
        if isinstance(made, Leaf):
            chain, key, annotations = made.chain, made.key, self._issue_record(seen, view, now)
        elif view is not None and not due.fresh:
            chain, key = view.value("tls.crt"), keys.load(view.value("tls.key"))
            annotations = {name: view.annotations[name] for name in _ISSUE_RECORD if name in view.annotations}
        else:
            raise PkiError("the certificate has not been signed")
        bundle = seen.trust.bundle if isinstance(seen.trust, Trust) else view.value("ca.crt") if view else b""
        data = {"tls.crt": chain, "tls.key": keys.encode(key, spec.private_key.encoding), "ca.crt": bundle}
        if spec.keystore_password is None and view is not None:
            password = generated_password(view)
        data |= encode_formats(seen.identity.meta.name, spec, data, key, password, now)
        return SecretContent.of(SECRET_TYPE, data, annotations | {OUTPUT_ANNOTATION: output_of(spec)})

    def consumed(self, content: SecretContent | SecretView) -> object:
        # Keystores are other bytes each time they are written, and a CRL is followed by who checks it: with the same
        # key pair, bundle, password and formats a service has what it needs.
        names = content.data.keys() - {"ca.crl"}
        values = tuple(content.data.get(name) for name in ("tls.crt", "tls.key", "ca.crt", "keystore-password"))
        return names, values, content.annotations.get(OUTPUT_ANNOTATION)

    def _issue_record(self, seen: Observed, view: SecretView | None, now: datetime) -> dict[str, str]:
        """Return what is written down beside a new certificate."""
        spec = _spec(seen)
        domain = seen.trust.domain.trust_domain if isinstance(seen.trust, Trust) else ""
        request = request_of(seen.identity, spec, domain)
        annotations = {
            REQUEST_ANNOTATION: json.dumps(request, separators=(",", ":"), sort_keys=True),
            ISSUED_ANNOTATION: format_time(now),
            REVISION_ANNOTATION: str(_revision(view) + 1),
        }
        annotations |= ownership.rotation_record(seen.identity.meta) | ownership.revocation_record(seen.identity.meta)
        views = revocation.secrets_of(seen.contents.values(), spec.secret_name)
        return annotations | revocation.remembered(seen.identity.meta, views, now)

    def deadline(self, seen: Observed, now: datetime) -> datetime | None:
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None:
            return None
        if seen.denial_of(self.name) is not None:
            return leaf_facts(view).not_after  # it is kept, and not renewed
        due = renewal(seen, view)
        # Past its renewal time and still not due: only a new issuer can help, or the end of its life.
        return due if due > now else leaf_facts(view).not_after

    def ends(self, seen: Observed) -> datetime | None:
        view = seen.contents.get(self.secret_name(seen.identity))
        try:
            return leaf_facts(view).not_after if view else None
        except (MalformedError, PkiError):
            return None

    def report(self, seen: Observed, now: datetime) -> dict[str, Any]:
        view = seen.contents[self.secret_name(seen.identity)]
        leaf, issuer = _chain_facts(view.value("tls.crt"))
        return {
            "secretName": view.name,
            "serialNumber": leaf.serial_number,
            "fingerprint": leaf.fingerprint,
            "issuerFingerprint": issuer.fingerprint,
            "notBefore": format_time(leaf.not_before),
            "notAfter": format_time(leaf.not_after),
            "renewalTime": format_time(renewal(seen, view)),
            "revision": _revision(view),
        }

    def summary(self, seen: Observed, now: datetime) -> str:
        leaf = leaf_facts(seen.contents[self.secret_name(seen.identity)])
        return f"certificate {leaf.serial_number} is valid until {format_time(leaf.not_after)}"


_ISSUE_RECORD: Final = (
    REQUEST_ANNOTATION,
    ISSUED_ANNOTATION,
    REVISION_ANNOTATION,
    ownership.ROTATED_ANNOTATION,
    ownership.REVOKED_ANNOTATION,
    revocation.EARLIER_ANNOTATION,
)


def is_listed(seen: Observed, view: SecretView) -> bool:
    """Say whether the Secret's certificate is revoked. Raises MalformedError or PkiError."""
    leaf, issuer = _chain_facts(view.value("tls.crt"))
    return not seen.revoked.isdisjoint({(issuer.fingerprint, leaf.serial_number), ("", leaf.serial_number)})


def _must_go(seen: Observed, view: SecretView, now: datetime) -> bool:
    """Say whether the Secret's certificate is revoked, or nothing can be told of it but that this was asked for."""
    try:
        return revoked(seen, view, now) is not None
    except (MalformedError, PkiError):
        return ownership.revocation_requested(seen.identity.meta, view)


def renewal(seen: Observed, view: SecretView) -> datetime:
    """When the Secret's certificate is to be replaced."""
    leaf = leaf_facts(view)
    try:
        issued = parse_time(view.annotations[ISSUED_ANNOTATION])
    except (KeyError, ValueError):
        issued = leaf.not_before
    if not leaf.not_before <= issued <= leaf.not_before + LONGEST_BACKDATE:
        issued = leaf.not_before  # not what was written here
    issued = min(issued, leaf.not_after - timedelta(seconds=1))
    return renewal_time(issued, leaf.not_after, _spec(seen).renew_before, leaf.serial_number)


_MOST_DIGITS: Final = 10


def _spec(seen: Observed) -> CertificateSpec:
    if seen.identity.certificate is None:
        raise LookupError("the identity asks for no certificate")
    return seen.identity.certificate


def _validity(spec: CertificateSpec, trust: Trust, signer: Issuer | RemoteIssuer, now: datetime) -> Validity:
    """Backdated for clocks that are behind, and inside the issuer's own: a leaf never outlives its chain."""
    return Validity(
        max(now - trust.domain.backdate, signer.certificate.not_valid_before_utc),
        min(now + spec.duration, signer.not_after),
    )


def _would_outlive(seen: Observed, signer: Issuer | RemoteIssuer, leaf: CertificateFacts, now: datetime) -> bool:
    """Say whether a certificate made now would live longer than the one that is there, so that it is of any use."""
    ends = min(now + _spec(seen).duration, signer.not_after)
    if isinstance(signer, RemoteIssuer):
        # Whoever signs elsewhere has its own clock and its own limits: it has to be worth the while.
        ends -= (leaf.not_after - leaf.not_before) / 10
    return ends > leaf.not_after


def _reusable_key(spec: CertificateSpec, view: SecretView | None) -> keys.PrivateKey | None:
    if spec.private_key.rotation_policy is not RotationPolicy.NEVER or view is None:
        return None
    try:
        key = keys.load(view.value("tls.key"))
    except (PkiError, MalformedError):
        return None
    return key if keys.profile_of(key) == spec.private_key.profile else None


def _recorded_request(view: SecretView) -> dict[str, Any]:
    try:
        recorded = json.loads(view.annotations.get(REQUEST_ANNOTATION, ""))
    except (ValueError, RecursionError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _trust_domain_of(recorded: dict[str, Any]) -> str:
    return str(recorded.get("spiffeID", "")).removeprefix("spiffe://").partition("/")[0]


def _listed(request: dict[str, Any], name: str) -> object:
    """Return a field as JSON would give it back: tuples are lists there."""
    value = request.get(name)
    if isinstance(value, dict):
        return {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
    return value


def _output(view: SecretView) -> str | None:
    return view.annotations.get(OUTPUT_ANNOTATION)


def _revision(view: SecretView | None) -> int:
    text = view.annotations.get(REVISION_ANNOTATION, "0") if view else "0"
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _MOST_DIGITS else 0
