"""Signed requests with httpx."""

from collections.abc import Generator

from serviceidentity_sdk.requests.middleware import REPLAYED_CHALLENGE
from serviceidentity_sdk.requests.signer import ServiceSigner

try:
    import httpx
except ImportError as missing:  # pragma: no cover
    raise ImportError("signing for httpx needs: pip install 'serviceidentity-sdk[httpx]'") from missing


class SignedRequests(httpx.Auth):
    """`httpx.AsyncClient(auth=SignedRequests(signer))`: each request is signed as it is sent.

    Another replica of this service can send the same body in the same millisecond, which is the same signature. A
    verifier that says so has not let the request in: it is signed once more.
    """

    requires_request_body = True

    def __init__(self, signer: ServiceSigner) -> None:
        self._signer = signer

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers.update(self._signer.sign(request.content))
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED and (
            REPLAYED_CHALLENGE in response.headers.get_list("www-authenticate")
        ):
            request.headers.update(self._signer.sign(request.content))
            yield request
