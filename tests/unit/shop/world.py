"""The shop in one process: every credential is a real one in a mounted directory, and every one of them is verified.

Only what is outside of the services is not there: Redis and PostgreSQL are in memory, and a handshake is not made: what
a server learns of one, the verified chain, is put on the request as uvicorn does.
"""

import asyncio
import json
import secrets
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from pathlib import Path

import httpx
import yaml
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.shop.services import inventory, order, payment, storefront
from examples.shop.services.inventory import Item
from examples.shop.services.settings import Settings
from examples.shop.services.stack import Stack
from sdk.python.tests.ca import Pki, pem, spiffe_id
from sdk.python.tests.policy.signing import TYPE, make_key, signed
from sdk.python.tests.volumes import Volume
from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.domain.access.bundle import bundle_of, part_of
from serviceidentity.domain.access.parse import access_policy
from serviceidentity.domain.access.spec import VARIABLES
from serviceidentity.domain.model import identity_key
from serviceidentity_sdk.credentials import KeyMaterial
from serviceidentity_sdk.jwt import Fixed, TokenSigner
from serviceidentity_sdk.mtls import MutualTLS, MutualTLSMiddleware, Peers
from serviceidentity_sdk.requests import HmacKey, ServiceSigner
from serviceidentity_sdk.requests.client import SignedRequests
from tests.unit.shop.fake_redis import FakeRedis
from tests.unit.shop.stores import MemoryOrders, MemoryPayments, MemoryStock

MANIFESTS = Path(__file__).parents[3] / "examples" / "shop" / "manifests"
NOON = datetime(2026, 1, 5, 11, 0, tzinfo=UTC)  # 12:00 in Berlin
EVENING = datetime(2026, 1, 5, 19, 0, tzinfo=UTC)
CUSTOMER = ("payments:create",)
CALLS = {
    "storefront": ("order-service", "inventory-service"),
    "order-service": ("inventory-service", "payment-service"),
}
SERVICES = ("storefront", "order-service", "payment-service", "inventory-service")


class World:
    def __init__(self, path):
        self.now, self.lines, self.broken, self.seen = NOON, [], [], []
        self.redis = FakeRedis()
        self.stock, self.payments, self.orders = MemoryStock(), MemoryPayments(), MemoryOrders()
        self.pki = Pki()
        self.leaves = {name: self.pki.leaf(name) for name in (*SERVICES, "auth-service")}
        self.keys = {name: secrets.token_bytes(32) for name in SERVICES}
        self.issuers = {name: make_key() for name in ("auth-service", "order-service")}
        self.signing, trusted = make_key()
        self.path, self.volumes, self.settings, self.kept = path, {}, {}, []
        self.mount("trust", {"ca.crt": self.pki.roots, "jwks.json": trusted})
        for name, (_, jwks) in self.issuers.items():
            self.mount(f"{name}-jwks", {"jwks.json": jwks})
        self.auth = self._auth()
        self.apps = {name: self._service(name) for name in ("inventory-service", "payment-service")}
        self.apps |= {name: self._service(name) for name in ("order-service", "storefront")}

    # Credentials.

    def mount(self, name, files):
        content = {key: value if isinstance(value, bytes) else value.encode() for key, value in files.items()}
        self.volumes[name] = Volume(self.path / name, content)
        return str(self.path / name)

    def _settings(self, name):
        callers = [one for one, called in CALLS.items() if name in called]
        issuer = "order-service" if name == "payment-service" else "auth-service"
        keyring = {one: {"spiffeID": spiffe_id(one), "keys": [self._jwk(one)]} for one in callers}
        private = self.issuers["order-service"][0].jwk
        addresses = {one.split("-")[0]: one for one in (*SERVICES, "auth-service")}
        return Settings(
            namespace="shop",
            redis="unused",
            tls=self.mount(f"{name}-tls", self.leaves[name].files()),
            trust=str(self.path / "trust"),
            jwks=str(self.path / f"{issuer}-jwks"),
            hmac=self.mount(f"{name}-hmac", {"key": self.keys[name].hex(), "key-id": f"key-of-{name}"}),
            keyring=self.mount(f"{name}-keyring", {"keyring.json": json.dumps({"services": keyring})}),
            policy=self.mount(f"{name}-policy", {"policy.jws": self.bundle(name)}),
            callers=" ".join(spiffe_id(one) for one in callers),
            jwt=self.mount(f"{name}-jwt", {"key.jwk": json.dumps(private.as_dict(private=True))}),
            provider=self.mount(f"{name}-provider", {"api-key": secrets.token_hex(16)}),
            **{short: f"https://{one}.shop.svc:8443" for short, one in addresses.items() if short != "storefront"},
        )

    def _jwk(self, name):
        raw = urlsafe_b64encode(self.keys[name]).rstrip(b"=").decode()
        return {"kty": "oct", "kid": f"key-of-{name}", "k": raw, "state": "Active"}

    def bundle(self, name):
        """Return the policies of the manifests for a service, as the operator signs them."""
        parts = []
        for body in yaml.safe_load_all((MANIFESTS / "access-policies.yaml").read_text()):
            body["metadata"] |= {"uid": "", "generation": 0, "labels": {}, "annotations": {}}
            policy = access_policy(body, CelCompiler(VARIABLES))
            parts += [part_of(policy.rules)] if name in policy.names else []
        return signed(self.signing, bundle_of(identity_key("shop", name), parts), TYPE)

    def token(self, subject="alice", *, roles=("customer",), permissions=CUSTOMER, issuer="auth-service", **changes):
        signer = TokenSigner(Fixed(self.issuers[issuer][0]), issuer=issuer)
        claims = {"sid": f"session-of-{subject}"} if issuer == "auth-service" else None
        return signer.sign(subject, roles=roles, permissions=permissions, claims=claims, **changes)

    def admin(self):
        return self.token("root", roles=("admin",), permissions=("*",))

    # Services.

    def restart(self, name):
        """Start a service anew, with what is mounted now."""
        self.apps[name] = self._service(name)

    def _stack(self, name):
        if name not in self.settings:
            self.settings[name] = self._settings(name)
        return Kept(
            self,
            name,
            self.settings[name],
            redis=self.redis,
            transport=lambda called: Wire(self, name, called),
            clock=lambda: self.now,
            write=self.lines.append,
        )

    def _service(self, name):
        stack = self._stack(name)
        match name:
            case "inventory-service":
                return inventory.application(stack, self.stock)
            case "payment-service":
                return payment.application(stack, self.payments)
            case "order-service":
                return order.application(stack, self.orders)
            case _:
                return storefront.application(stack)

    def _auth(self):
        """Stands in for auth-service: any name may log in with the password `right`."""

        async def login(request):
            self.seen.append(request.headers.get("x-forwarded-for"))
            body = await request.json()
            if body["password"] != "right":
                return JSONResponse({"error": "Invalid username or password"}, 401, {"www-authenticate": "Bearer"})
            return JSONResponse({"access_token": self.token(body["username"])})

        async def logout(request):
            self.redis.revoke("session-of-alice")
            return JSONResponse(None, 204)

        app = Starlette(routes=[Route("/login", login, methods=["POST"]), Route("/logout", logout, methods=["POST"])])
        tls = MutualTLS(self.mount("auth-tls", self.leaves["auth-service"].files()), self.path / "trust")
        return MutualTLSMiddleware(app, tls, allowed=Peers(spiffe_ids=[spiffe_id("storefront")]))

    def tidy(self):
        """Have order-service look for orders that nobody finishes; return how many there were."""
        (abandoned,) = self.kept
        return asyncio.run(abandoned.look())

    # Requests.

    def client(self, service, caller=None, *, leaf=None, sign=True, address="192.0.2.1"):
        """Return a client of a service as `caller` is one, or with a certificate of one's own, or with none."""
        shown = leaf or self.leaves.get(caller)
        auth = None
        if caller is not None and sign:
            key = HmacKey(f"key-of-{caller}", KeyMaterial(self.keys[caller]))
            auth = SignedRequests(ServiceSigner(caller, Fixed(key)))
        transport = httpx.ASGITransport(with_chain(self.app(service), shown), client=(address, 1234))
        return httpx.AsyncClient(transport=transport, base_url=f"https://{service}.shop.svc:8443", auth=auth)

    def app(self, service):
        return self.auth if service == "auth-service" else self.apps[service]

    def customer(self, token=None, **options):
        client = self.client("storefront", **options)
        if token is not None:
            client.headers["Authorization"] = f"Bearer {token}"
        return client

    def fill(self, item="teapot", quantity=10, price=20):
        self.stock.stock[item] = Item(item=item, quantity=quantity, price=price)

    def left(self, item="teapot"):
        return self.stock.stock[item].quantity

    def line(self, service):
        """Return the last line of a service's journal."""
        return next(line for line in reversed(self.lines) if line["service"] == service)


class Kept(Stack):
    """A stack that tells what runs beside the application."""

    def __init__(self, world, *arguments, **options):
        super().__init__(*arguments, **options)
        self._world = world

    def background(self, resource):
        self._world.kept.append(resource)
        return super().background(resource)


class Wire(httpx.AsyncBaseTransport):
    """From one service to another; `world.broken` has what happens to the next requests instead, None for nothing."""

    def __init__(self, world, caller, called):
        self.world, self.caller, self.called = world, caller, called

    async def handle_async_request(self, request):
        for one in self.world.broken:
            if one[0] == self.called:
                self.world.broken.remove(one)
                if callable(one[1]):
                    return await one[1](request, self._ask)
                raise one[1]
        return await self._ask(request)

    async def _ask(self, request):
        app = with_chain(self.world.app(self.called), self.world.leaves[self.caller])
        return await httpx.ASGITransport(app).handle_async_request(request)


def with_chain(app, leaf):
    """Say to an application what its server says about a handshake."""
    chain = (
        ()
        if leaf is None
        else tuple(pem(part).decode() for part in (leaf.certificate, leaf.pki.intermediate.certificate))
    )

    async def told(scope, receive, send):
        scope.setdefault("extensions", {})["tls"] = {"client_cert_chain": chain}
        await app(scope, receive, send)

    return told
