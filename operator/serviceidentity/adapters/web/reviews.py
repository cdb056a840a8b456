"""The HTTP half of AdmissionReviews: one POST of JSON, not too long and not too slow."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from serviceidentity.app.jwt.serving import JSON, TEXT, Answer
from serviceidentity.app.webhook.reviews import LONGEST

MOST_AT_ONCE: Final = 8  # so many bodies are in memory
WITHIN: Final = 2.5  # seconds, from the headers to the answer: the API server waits for three

Review = Callable[[bytes], Awaitable[Answer]]


class ReviewEndpoint:
    """Reads a body and has it answered."""

    def __init__(self, review: Review, *, most_at_once: int = MOST_AT_ONCE, within: float = WITHIN) -> None:
        self._review = review
        self._slots = asyncio.Semaphore(most_at_once)
        self._within = within

    async def answer(self, request: web.BaseRequest) -> Answer:
        """Answer a request, whatever it is."""
        if request.method != "POST":
            return Answer(405, {"Content-Type": TEXT, "Allow": "POST"}, b"method not allowed\n")
        if request.content_type != JSON or "Content-Encoding" in request.headers:
            return _refused(400, "the body is not application/json")
        try:
            async with asyncio.timeout(self._within), self._slots:
                body = await _read(request)
                return _refused(413, "the body is too long") if body is None else await self._review(body)
        except TimeoutError:
            return _refused(503, "too late")
        except (web.RequestPayloadError, ConnectionError):  # its chunks are none, or the client is gone
            return _refused(400, "the body can't be read")


async def _read(request: web.BaseRequest) -> bytes | None:
    """Return the body; None as soon as it is too long."""
    if (request.content_length or 0) > LONGEST:
        return None
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > LONGEST:
            return None
    return bytes(body)


def _refused(status: int, why: str) -> Answer:
    return Answer(status, {"Content-Type": TEXT}, f"{why}\n".encode())
