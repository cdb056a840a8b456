"""Answers the API server's AdmissionReviews: what can't be understood is refused when it is written."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from serviceidentity.app.jwt.serving import JSON, TEXT, Answer
from serviceidentity.domain import admission
from serviceidentity.domain.admission import Readers
from serviceidentity.domain.material import MalformedError

PATH: Final = "/admission"
LONGEST: Final = 1 << 20  # bytes: an object and what it was before, with room


class Reviews:
    """Judges one object at a time, in a thread: compiling its expressions must not hold up everything else.

    The thread is its own. Work that nobody waits for any more goes on to its end, and others' work must not pile up
    behind it, nor beside it; what has not begun by then never does.
    """

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._thread = ThreadPoolExecutor(1, "reviews")

    async def answer(self, body: bytes) -> Answer:
        """Answer a POST of this body."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, admission.answer, body, self._readers)
        except MalformedError as error:
            return Answer(400, {"Content-Type": TEXT}, f"the review {error}\n".encode())
        return Answer(200, {"Content-Type": JSON}, found)
