"""Answers the API server's AdmissionReviews: what can't be understood is refused when it is written."""

import asyncio
from typing import Final

from serviceidentity.app.jwt.serving import JSON, TEXT, Answer
from serviceidentity.domain import admission
from serviceidentity.domain.admission import Readers
from serviceidentity.domain.material import MalformedError

PATH: Final = "/admission"
LONGEST: Final = 1 << 20  # bytes: an object and what it was before, with room


class Reviews:
    """Judges one object at a time, in a thread: compiling its expressions must not hold up everything else."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._turn = asyncio.Lock()

    async def answer(self, body: bytes) -> Answer:
        """Answer a POST of this body."""
        async with self._turn:
            try:
                found = await asyncio.to_thread(admission.answer, body, self._readers)
            except MalformedError as error:
                return Answer(400, {"Content-Type": TEXT}, f"the review {error}\n".encode())
        return Answer(200, {"Content-Type": JSON}, found)
