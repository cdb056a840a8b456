"""Vault or OpenBao for services that talk to it themselves: a cache, and leases that are kept alive."""

from serviceidentity_sdk.vault.client import AsyncVault, Vault
from serviceidentity_sdk.vault.connection import Connection, Requests
from serviceidentity_sdk.vault.errors import (
    VaultAwayError,
    VaultError,
    VaultForbiddenError,
    VaultMissingError,
    VaultRefusedError,
)
from serviceidentity_sdk.vault.secrets import LeasedSecret, SecretData

__all__ = [
    "AsyncVault",
    "Connection",
    "LeasedSecret",
    "Requests",
    "SecretData",
    "Vault",
    "VaultAwayError",
    "VaultError",
    "VaultForbiddenError",
    "VaultMissingError",
    "VaultRefusedError",
]
