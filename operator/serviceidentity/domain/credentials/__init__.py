"""The credentials an identity can ask for. A new kind is a module here and a line in CREDENTIALS."""

from typing import Final

from serviceidentity.domain.credentials.base import Credential
from serviceidentity.domain.credentials.certificate import Certificate
from serviceidentity.domain.credentials.hmac import HmacKeys
from serviceidentity.domain.credentials.keyring import Keyring

CREDENTIALS: Final[tuple[Credential, ...]] = (Certificate(), HmacKeys(), Keyring())
