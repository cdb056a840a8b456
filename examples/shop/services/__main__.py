"""python -m examples.shop.services order|payment|inventory|storefront [--host H] [--port P] [--migrate]."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from examples.shop.services import inventory, order, payment, storefront
from examples.shop.services.errors import SettingsError, ShopError
from examples.shop.services.inventory.store import PostgresStock
from examples.shop.services.migrations import SCHEMAS, migrate
from examples.shop.services.order.store import PostgresOrders
from examples.shop.services.payment.store import PostgresPayments
from examples.shop.services.settings import NEEDED, Settings, read_settings
from examples.shop.services.stack import Stack
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.config import SecretsError, load_secrets
from serviceidentity_sdk.credentials import CredentialError
from serviceidentity_sdk.mtls import ClientCertificate
from serviceidentity_sdk.mtls.server import run
from serviceidentity_sdk.postgres import PostgresError

_LAST_WORDS: Final = 10  # seconds for requests under way


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a service until a signal comes, or its migrations; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop.services", description="Settings: SHOP_*.")
    parser.add_argument("service", choices=sorted(NEEDED))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; in a Pod its own")
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--migrate", action="store_true", help="bring the database up to date, as its owner, and end")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the journal has a line for each call, where it arrives
    try:
        env = load_secrets(os.environ)
        if chosen.migrate:
            if chosen.service not in SCHEMAS or not (env.get("SHOP_DATABASE") and env.get("SHOP_DATABASE_OWNER")):
                raise SettingsError("--migrate is for a service with a database: SHOP_DATABASE, SHOP_DATABASE_OWNER")
            for name in migrate(chosen.service, env["SHOP_DATABASE"], env["SHOP_DATABASE_OWNER"]):
                logging.getLogger("shop").info("migrated: %s", name)
            return 0
        serve(chosen.service, read_settings(chosen.service, env), chosen.host, chosen.port)
    except (ShopError, CredentialError, PostgresError, SecretsError) as error:
        print(f"{chosen.service}: {error}", file=sys.stderr)
        return 1
    return 0


def serve(service: str, settings: Settings, host: str, port: int) -> None:
    """Serve until a signal comes. Raises CredentialError."""
    stack = Stack("storefront" if service == "storefront" else f"{service}-service", settings)
    run(
        _application(service, stack),
        stack.tls,
        host=host,
        port=port,
        client_certificate=ClientCertificate.OPTIONAL,  # a probe and a customer have none; the layers ask everyone else
        timeout_graceful_shutdown=_LAST_WORDS,
        server_header=False,
        proxy_headers=False,
        access_log=False,
    )


def _application(service: str, stack: Stack) -> Application:
    match service:
        case "order":
            return order.application(stack, PostgresOrders(stack.postgres(SCHEMAS["order"])))
        case "payment":
            return payment.application(stack, PostgresPayments(stack.postgres(SCHEMAS["payment"])))
        case "inventory":
            return inventory.application(stack, PostgresStock(stack.postgres(SCHEMAS["inventory"])))
        case _:
            return storefront.application(stack)


if __name__ == "__main__":
    sys.exit(main())
