"""The credentials an identity can ask for. A new kind is a module here and a line in CREDENTIALS.

Tokens, and the secrets of Vault, are as many credentials as the identity names.
"""

from typing import Final

from serviceidentity.domain.credentials.base import Credential
from serviceidentity.domain.credentials.certificate import Certificate
from serviceidentity.domain.credentials.encrypted import EncryptedValues
from serviceidentity.domain.credentials.hmac import HmacKeys
from serviceidentity.domain.credentials.jwt import JwtKeys
from serviceidentity.domain.credentials.keyring import Keyring
from serviceidentity.domain.credentials.token import TokenSecret
from serviceidentity.domain.credentials.vault import VaultSecret
from serviceidentity.domain.model import Identity

CREDENTIALS: Final[tuple[Credential, ...]] = (Certificate(), HmacKeys(), Keyring(), EncryptedValues(), JwtKeys())
STATUS_FIELDS: Final = (
    *(credential.status_field for credential in CREDENTIALS),
    TokenSecret.status_field,
    VaultSecret.status_field,
)


def credentials_of(identity: Identity) -> tuple[Credential, ...]:
    """Return the credentials that an identity asks for."""
    fixed = tuple(credential for credential in CREDENTIALS if credential.requested(identity))
    tokens = identity.jwt.tokens if identity.jwt is not None else ()
    secrets = identity.vault.secrets if identity.vault is not None else ()
    return (*fixed, *(TokenSecret(token) for token in tokens), *(VaultSecret(secret) for secret in secrets))
