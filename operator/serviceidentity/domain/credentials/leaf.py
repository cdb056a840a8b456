"""A leaf certificate between being asked for and being stored: the order for it, and what came of that."""

from dataclasses import dataclass, field

from serviceidentity.domain.authority import RemoteIssuer
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.certificates import Issuer, SubjectAltNames, Validity
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import PrivateKey
from serviceidentity.domain.pki.names import Subject


@dataclass(frozen=True, slots=True)
class Order:
    """A leaf that is to be signed: for whom, until when, by whom. Its private key stays here, whoever signs."""

    subject: Subject
    names: SubjectAltNames
    usages: tuple[str, ...]
    validity: Validity
    signer: Issuer | RemoteIssuer
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Leaf:
    """What came of an order: the certificate and those above it without the root, in PEM, and its key."""

    chain: bytes
    key: PrivateKey = field(repr=False)


def sign(order: Order) -> Leaf:
    """Sign with a key that is here. Raises PkiError."""
    if not isinstance(order.signer, Issuer):
        raise PkiError("the key that signs is elsewhere")
    public = order.key.public_key()
    made = certificates.issue_leaf(order.subject, order.names, order.usages, public, order.signer, order.validity)
    return Leaf(certificates.encode_chain(made, *order.signer.chain), order.key)
