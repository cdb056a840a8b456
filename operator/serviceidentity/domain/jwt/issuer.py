"""Who signs the tokens of a trust domain's identities, as far as minting one depends on it."""

from dataclasses import dataclass
from datetime import timedelta

from serviceidentity.domain.key_ring import Ring


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """The keys of a trust domain's token issuer. `issuer` goes into tokens as `iss`.

    A token that is signed by a key outside of the ring is not accepted any more.
    """

    domain: str  # name of the TrustDomain
    spiffe_domain: str
    issuer: str
    ring: Ring
    longest_lifetime: timedelta
