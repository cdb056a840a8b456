"""Reads one small document over HTTPS: another trust domain's bundle."""

import ssl
from typing import Final

import aiohttp

from serviceidentity.errors import RejectedError, RetryableError, SettingsError

TIMEOUT: Final = 10.0  # seconds, for everything
OK: Final = 200


async def fetch(url: str, authorities: str | None, limit: int, *, within: float = TIMEOUT) -> bytes:
    """Return what is at the URL. `authorities` in PEM may vouch for the server; None: those of the system.

    Redirects are not followed, and no proxy is used. Raises PortError with a fixed message.
    """
    try:
        context = ssl.create_default_context(cadata=authorities)
    except (ssl.SSLError, ValueError):
        raise SettingsError("caBundle holds no certificates in PEM") from None
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "serviceidentity"}
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=within), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            ) as session,
            session.get(url, ssl=context, allow_redirects=False, headers=headers) as answer,
        ):
            if answer.status != OK:
                raise RejectedError(f"the bundle endpoint answered {answer.status}")
            if "Content-Encoding" in answer.headers:
                raise RejectedError("the bundle endpoint compresses what it was asked to send as it is")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise RejectedError(f"the bundle is longer than {limit} bytes")
            return bytes(body)
    except aiohttp.ClientConnectorCertificateError:
        raise RejectedError("the bundle endpoint's certificate is not trusted") from None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        raise RetryableError("the bundle endpoint does not answer") from None
