"""From `spec.federatesWith` of a trust domain to its value. Raises InvalidSpecError with the field's path."""

import re
from typing import Final

from serviceidentity.domain.fields import Json, block, blocks, is_https, text
from serviceidentity.domain.jwt.spec import Peer
from serviceidentity.errors import InvalidSpecError

PATH: Final = "spec.federatesWith"
MOST_PEERS: Final = 32
_NAME: Final = re.compile(r"[a-z0-9._-]{1,200}")  # with its ending it is a ConfigMap's data key


def peers(spec: Json, own: str) -> tuple[Peer, ...]:
    """Read `spec.federatesWith` of a TrustDomain whose SPIFFE trust domain is `own`. Raises InvalidSpecError."""
    found = tuple(_peer(item, path) for path, item in blocks(spec, "federatesWith", "spec"))
    names = [peer.trust_domain for peer in found]
    if own in names:
        raise InvalidSpecError(f"{PATH}[{names.index(own)}].trustDomain", "must be another trust domain than its own")
    if len(found) > MOST_PEERS or len(set(names)) < len(names):
        raise InvalidSpecError(PATH, f"must be at most {MOST_PEERS} trust domains, and none of them twice")
    return found


def _peer(item: Json, path: str) -> Peer:
    name = text(item, "trustDomain", path)
    if not _NAME.fullmatch(name):
        raise InvalidSpecError(f"{path}.trustDomain", "must be the name of a SPIFFE trust domain")
    endpoint, source = block(item, "bundleEndpoint", path), block(item, "configMapRef", path)
    if bool(endpoint) == bool(source):
        raise InvalidSpecError(path, "must have exactly one of bundleEndpoint and configMapRef")
    if source:
        where = f"{path}.configMapRef"
        return Peer(name, config_map=(text(source, "name", where), text(source, "key", where, "bundle.json")))
    where = f"{path}.bundleEndpoint"
    url = text(endpoint, "url", where)
    if not is_https(url) or "#" in url:
        raise InvalidSpecError(f"{where}.url", "must be an https URL without user name and fragment")
    if text(endpoint, "profile", where, "https_web") != "https_web":
        raise InvalidSpecError(f"{where}.profile", "must be https_web")
    return Peer(name, url=url, authorities=text(endpoint, "caBundle", where, "") or None)
