"""Configuration: encrypted values, files over environment variables, mounted Secrets, typed access."""

from serviceidentity_sdk.config.encrypted import DecryptionError, MasterKey, decrypt, parse_master_keys
from serviceidentity_sdk.config.mounted import read_secret
from serviceidentity_sdk.config.secrets import Secrets, SecretsError, load_secrets

__all__ = [
    "DecryptionError",
    "MasterKey",
    "Secrets",
    "SecretsError",
    "decrypt",
    "load_secrets",
    "parse_master_keys",
    "read_secret",
]
