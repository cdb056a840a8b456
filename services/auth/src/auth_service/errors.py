"""What can go wrong, as far as callers are told."""


class AuthError(Exception):
    """Anything that this service raises itself. The text quotes neither passwords nor tokens nor a server."""


class UnavailableError(AuthError):
    """PostgreSQL or Redis does not answer, or not as it should: try again."""


class InvalidCredentialsError(AuthError):
    """Name and password are not those of an account that may log in. Which of it is wrong is never said."""


class InvalidRefreshTokenError(AuthError):
    """The refresh token is unknown, used, expired, or of a session that has ended. Which of it is never said."""


class RejectedError(AuthError):
    """What an administrator asked for can't be done; the text says why."""
