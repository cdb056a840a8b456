"""Probes as the kubelet makes them: HTTPS without a look at the certificate, and without one of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import aiohttp

from tests.controlplane.node.api import Object
from tests.controlplane.node.spec import NotSupportedError

_HEADERS: Final = {"User-Agent": "kube-probe/1.37", "Accept": "*/*"}


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a container; the defaults are those of the API."""

    action: Object
    initial_delay: float
    period: float
    timeout: float
    successes: int
    failures: int

    @classmethod
    def of(cls, spec: Object) -> Self:
        """Read a probe. Raises NotSupportedError for exec and gRPC."""
        if "httpGet" not in spec and "tcpSocket" not in spec:
            raise NotSupportedError("a probe by exec or grpc")
        return cls(
            action=spec,
            initial_delay=spec.get("initialDelaySeconds", 0),
            period=spec.get("periodSeconds", 10),
            timeout=spec.get("timeoutSeconds", 1),
            successes=spec.get("successThreshold", 1),
            failures=spec.get("failureThreshold", 3),
        )

    async def succeeds(self, address: str, ports: Sequence[Object]) -> bool:
        """Whether the container answers as it should, at a Pod's address."""
        try:
            async with asyncio.timeout(self.timeout):
                if "httpGet" in self.action:
                    return await _get(self.action["httpGet"], address, ports)
                _, writer = await asyncio.open_connection(address, port_of(self.action["tcpSocket"]["port"], ports))
                writer.close()
                return True
        except (aiohttp.ClientError, OSError, TimeoutError, LookupError):
            return False


def port_of(port: int | str, ports: Sequence[Object]) -> int:
    """Return the number of a port that is given by number or by a container's name for it. Raises LookupError."""
    if isinstance(port, int) or port.isdecimal():
        return int(port)
    for known in ports:
        if known.get("name") == port:
            return int(known["containerPort"])
    raise LookupError(f"no container has a port {port}")


async def _get(get: Object, address: str, ports: Sequence[Object]) -> bool:
    scheme = get.get("scheme", "HTTP").lower()
    url = f"{scheme}://{get.get('host') or address}:{port_of(get['port'], ports)}{get.get('path') or '/'}"
    headers = _HEADERS | {header["name"]: header["value"] for header in get.get("httpHeaders") or []}
    # A connection of its own for each probe, as the kubelet does; the session is as cheap as that.
    connector = aiohttp.TCPConnector(ssl=False, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url, headers=headers) as answer:
        return 200 <= answer.status < 400
