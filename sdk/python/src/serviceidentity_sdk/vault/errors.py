"""What can go wrong with Vault, said in terms of what to do next. Messages are fixed: no server's words, no secret."""


class VaultError(Exception):
    """Base of what this client raises on purpose."""


class VaultAwayError(VaultError):
    """It may work in a moment: no answer, sealed, 429, 5xx."""


class VaultRefusedError(VaultError):
    """Vault understood and refused; trying again soon won't help."""


class VaultForbiddenError(VaultRefusedError):
    """The token is not good any more, or its policies do not allow this (403)."""


class VaultMissingError(VaultError):
    """There is nothing under this path (404)."""
