"""Settings: environment variables. A path is a directory where a Secret or ConfigMap is mounted.

| variable | of | |
| --- | --- | --- |
| `SHOP_NAMESPACE` | all | namespace of the Pod: policies are for `<namespace>/<service>` |
| `SHOP_TLS` | all | Secret `<service>-tls` |
| `SHOP_TRUST` | all | ConfigMap of the trust bundle: `ca.crt`, `jwks.json` |
| `SHOP_JWKS` | all | ConfigMap `<issuer>-jwks`: of auth-service, for payment-service of order-service |
| `SHOP_REDIS` | all | `redis://`, `rediss://` or `unix://`; with a password in it, as a file: `SHOP_REDIS_FILE` |
| `SHOP_HMAC` | storefront, order | Secret `<service>-hmac`, the key that signs requests |
| `SHOP_KEYRING` | order, payment, inventory | Secret `<service>-hmac-keyring`, the keys of callers |
| `SHOP_POLICY` | order, payment, inventory | ConfigMap `<service>-policy` |
| `SHOP_CALLERS` | order, payment, inventory | SPIFFE IDs of the services that may call, with spaces between |
| `SHOP_DATABASE` | order, payment, inventory | `host=... dbname=...`, without user and password |
| `SHOP_DATABASE_LOGIN` | order, payment, inventory | Secret of the lease: `username`, `password` |
| `SHOP_DATABASE_OWNER` | their `--migrate` | Secret of the owner of the database: `username`, `password` |
| `SHOP_JWT` | order | Secret `order-service-jwt`, the key that signs narrowed tokens |
| `SHOP_PROVIDER` | payment | Secret of the payment provider's key: `api-key` |
| `SHOP_AUTH`, `SHOP_AUTH_ID` | storefront | address and SPIFFE ID of auth-service |
| `SHOP_ORDER`, `SHOP_ORDER_ID` | storefront | of order-service |
| `SHOP_INVENTORY`, `SHOP_INVENTORY_ID` | storefront, order | of inventory-service |
| `SHOP_PAYMENT`, `SHOP_PAYMENT_ID` | order | of payment-service |
| `SHOP_RATE_LIMIT` | storefront | requests of an address in any 15 minutes; 100 |
| `SHOP_LOOK_EVERY` | all | seconds between looks at the mounted files; 2 |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from examples.shop.services.errors import SettingsError
from serviceidentity_sdk.mtls.peer import is_spiffe_id

_PREFIX: Final = "SHOP_"
_ALL: Final = ("namespace", "tls", "trust", "jwks", "redis")
_BEHIND: Final = ("keyring", "policy", "callers", "database", "database_login")
NEEDED: Final = {
    "storefront": (*_ALL, "hmac", "auth", "auth_id", "order", "order_id", "inventory", "inventory_id"),
    "order": (*_ALL, *_BEHIND, "hmac", "jwt", "inventory", "inventory_id", "payment", "payment_id"),
    "payment": (*_ALL, *_BEHIND, "provider"),
    "inventory": (*_ALL, *_BEHIND),
}
_LOGIN: Final = re.compile(r"(?:^|[\s?&])(?:user|password)\s*=|@")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,6}")
_SECONDS: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Settings:
    """The variables by their names in lower case, without the prefix; what a service does not need is empty."""

    namespace: str = ""
    tls: str = ""
    trust: str = ""
    jwks: str = ""
    redis: str = ""
    hmac: str = ""
    keyring: str = ""
    policy: str = ""
    callers: str = ""
    database: str = ""
    database_login: str = ""
    jwt: str = ""
    provider: str = ""
    auth: str = ""
    auth_id: str = ""
    order: str = ""
    order_id: str = ""
    inventory: str = ""
    inventory_id: str = ""
    payment: str = ""
    payment_id: str = ""
    rate_limit: str = "100"
    look_every: str = "2"


def read_settings(service: str, env: Mapping[str, str]) -> Settings:
    """Return what `service` (a key of NEEDED) is told. Raises SettingsError that names all that is missing or wrong."""
    given = {one.name: env.get(_PREFIX + one.name.upper()) or str(one.default) for one in fields(Settings)}
    wrong = {name for name in NEEDED[service] if not given[name]}
    for name in NEEDED[service]:
        for spiffe_id in given[name].split() if name == "callers" or name.endswith("_id") else ():
            wrong |= set() if is_spiffe_id(spiffe_id) else {name}
    if _LOGIN.search(given["database"]):
        wrong.add("database")  # user and password come from the lease
    if not _NUMBER.fullmatch(given["rate_limit"]):
        wrong.add("rate_limit")
    if not _SECONDS.fullmatch(given["look_every"]):
        wrong.add("look_every")
    if wrong:
        raise SettingsError(f"missing or wrong: {', '.join(sorted(_PREFIX + name.upper() for name in wrong))}")
    return Settings(**given)
