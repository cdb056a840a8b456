"""The SDK's list of revoked tokens, as the use cases need it."""

from datetime import datetime
from uuid import UUID

from auth_service import errors
from serviceidentity_sdk.jwt import UnavailableError
from serviceidentity_sdk.jwt.revocations_redis import RedisRevocations


class SharedRevocations:
    """The port `RevocationList`, in Redis."""

    def __init__(self, revocations: RedisRevocations) -> None:
        self._revocations = revocations

    async def revoke(self, sessions: list[UUID], until: datetime) -> None:
        try:
            await self._revocations.revoke(until, sid=[str(one) for one in sessions])
        except UnavailableError:
            raise errors.UnavailableError("the list of revoked tokens does not answer") from None
