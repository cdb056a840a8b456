"""Who a request comes from, as far as limits are concerned."""

import ipaddress
from collections.abc import Callable
from typing import Final

try:
    from starlette.datastructures import Headers
    from starlette.types import Scope
except ImportError as error:
    raise ImportError("serviceidentity_sdk.hardening needs: pip install 'serviceidentity-sdk[asgi]'") from error

ClientKey = Callable[[Scope], str]
_UNKNOWN: Final = "unknown"
_NETWORK: Final = 64  # bits: who has one address of IPv6 has all of its network


def by_address(trusted_hops: int = 0) -> ClientKey:
    """Tell clients apart by their IP address, those of IPv6 by their /64.

    `trusted_hops` is how many proxies of your own stand before the service, each of which appends the address it was
    called from to X-Forwarded-For. That many entries count, from the right; what is left of them anyone can make up.
    """
    if trusted_hops < 0:
        raise ValueError("there is no negative number of proxies")

    def key(scope: Scope) -> str:
        peer = scope.get("client")
        hops = [] if peer is None else [str(peer[0])]
        if trusted_hops:
            named = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
            hops = [*(one.strip() for one in named[-trusted_hops:]), *hops]
        # The farthest that a proxy of ours vouches for; one that is no address is as good as none.
        for one in hops:
            if (found := _address(one)) is not None:
                return found
        return _UNKNOWN

    return key


def by_principal(trusted_hops: int = 0) -> ClientKey:
    """Tell callers apart by their verified subject; those without one by their address."""
    address = by_address(trusted_hops)

    def key(scope: Scope) -> str:
        principal = (scope.get("state") or {}).get("principal")
        return address(scope) if principal is None else f"{principal.kind}:{principal.subject}"

    return key


def _address(text: str) -> str | None:
    """Return the address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _NETWORK), strict=False))
