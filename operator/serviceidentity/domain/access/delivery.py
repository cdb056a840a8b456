"""The ConfigMap with a service's bundle: signed with the token key of its trust domain, and read back."""

from collections.abc import Mapping
from typing import Any, Final

from serviceidentity.domain import ownership
from serviceidentity.domain.jwt import jose
from serviceidentity.domain.key_ring import Ring
from serviceidentity.domain.material import MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Identity, Kind
from serviceidentity.domain.ownership import Metadata

CREDENTIAL: Final = "policy"  # the label that tells it from the ConfigMap with the identity's public keys
DATA_KEY: Final = "policy.jws"
TYPE: Final = "serviceidentity-policy+jws"  # RFC 8725 3.11: nobody takes it for a token


def config_map_name(identity: str) -> str:
    """Return the name of the ConfigMap."""
    return f"{identity}-policy"


def signed(bundle: Mapping[str, Any], ring: Ring) -> SecretContent:
    """Return what the ConfigMap has to hold: the bundle, signed with the active key. Raises MalformedError."""
    key, algorithm = jose.load_private(ring.active.material)
    text = jose.sign(bundle, key, algorithm, ring.active.key_id, TYPE)
    return SecretContent.of("", {DATA_KEY: text.encode()}, {})


def read(view: SecretView | None, ring: Ring) -> tuple[dict[str, Any], str] | None:
    """Return the bundle in a ConfigMap and the ID of the key that signed it; None if no key of the ring did."""
    if view is None:
        return None
    try:
        text = view.value(DATA_KEY).decode()
        key_id = str(jose.header_of(text, jose.LONGEST_DOCUMENT).get("kid"))
        for one in ring.keys:
            if one.key_id == key_id:
                return jose.verify_document(text, *jose.load_private(one.material), TYPE), key_id
    except (MalformedError, UnicodeDecodeError):
        pass
    return None


def is_labelled(identity: Identity, found: SecretView) -> bool:
    """Say whether a ConfigMap has the metadata that it must have."""
    return ownership.satisfied(found, metadata_of(identity, SecretContent("", found.data)))


def metadata_of(identity: Identity, content: SecretContent) -> Metadata:
    """Return the metadata that the ConfigMap must have."""
    labels = {ownership.IDENTITY_LABEL: identity.meta.name, ownership.CREDENTIAL_LABEL: CREDENTIAL}
    name = config_map_name(identity.meta.name)
    return ownership.metadata_for(Kind.SERVICE_IDENTITY, identity.meta, identity.deletion_policy, name, labels, content)
