"""The lines in docs/sdk/signed-requests.md and docs/sdk/jwt.md do what is said there."""

import asyncio
import json
import re
import time
from pathlib import Path

import httpx

from sdk.python.tests.jwt.tokens import Pair, b64, claims, jwks, token
from sdk.python.tests.volumes import Volume

DOCS = Path(__file__).parents[3] / "docs" / "sdk"
KEY = b"\x07" * 32
JWK = {"kty": "oct", "alg": "HS256", "kid": "k1", "k": b64(KEY), "state": "Active", "changed": "2027-01-15T12:00:00Z"}


def blocks(page, folder):
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [code.replace("/identity", str(folder)) for code in found]


def issued(pair, **changes):
    now = int(time.time())
    return token(claims(iat=now, nbf=now, exp=now + 900, **changes), pair)


def mount_certificate(pki, folder, extra=None):
    files = pki.leaf("order-service").files()
    Volume(folder / "trust", {"ca.crt": files.pop("ca.crt"), **(extra or {})})
    Volume(folder / "tls", files)


def test_signed_requests(tmp_path, monkeypatch, capsys, pki):
    services = {"order-service": {"keys": [JWK]}}
    Volume(tmp_path / "hmac-keyring", {"keyring.json": json.dumps({"services": services}).encode()})
    Volume(tmp_path / "hmac", {"keys.json": json.dumps({"keys": [JWK]}).encode()})
    mount_certificate(pki, tmp_path)
    server, client, redis, standard = blocks("signed-requests.md", tmp_path)
    at_server, at_client = {}, {}
    exec(server, at_server)
    try:
        # Over mutual TLS they are tried in test_documented_service.
        monkeypatch.setattr("serviceidentity_sdk.mtls.client.AsyncMutualTLSTransport", lambda _tls: transport)
        transport = httpx.ASGITransport(at_server["app"])
        exec(client, at_client)
        asyncio.run(at_client["main"]())
        assert capsys.readouterr().out == "{'caller': 'order-service'}\n"
        exec(redis, {})
        exec(standard, {"keyring": at_server["keyring"], "key": None})
    finally:
        at_server["keyring"].stop()


def test_tokens(tmp_path, pki):
    pair, domain = Pair("ES256"), Pair("ES256")
    mount_certificate(pki, tmp_path, {"jwks.json": jwks(domain.published()).encode()})
    named = {"iss": "https://serviceidentity-jwks.serviceidentity-system.svc/default", "aud": "payment-service"}
    Volume(tmp_path / "payments-token", {"token": issued(domain, sub="shop/order-service", **named).encode()})
    Volume(tmp_path / "jwks", {"jwks.json": jwks(pair.published()).encode()})
    Volume(tmp_path / "jwt", {"keys.json": jwks(pair.kept(state="Active")).encode()})
    found = {}
    codes = blocks("jwt.md", tmp_path)
    exec(codes[0], found)
    mounted, app = found["verifier"], found["app"]
    try:
        for code in codes[1:]:
            exec(code, found)

        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders") as client:
                return await client.get("/me", headers={"Authorization": f"Bearer {found['token']}"})

        assert asyncio.run(ask()).json() == {"user": "user-1"}
        found["verifier"] = mounted
        wide = found["signer"].sign("user-1", permissions=["payments:*"])
        assert asyncio.run(found["narrowed"](wide)).count(".") == 2

        async def call():
            seen = []
            transport = httpx.MockTransport(lambda request: seen.append(request) or httpx.Response(200))
            async with httpx.AsyncClient(transport=transport) as client:
                await found["call"](client)
            return await found["services"].verify(seen[0].headers["Authorization"].removeprefix("Bearer "))

        assert asyncio.run(call()).principal.subject == "shop/order-service"
    finally:
        for name in ("jwks", "key", "mine", "domain"):
            if name in found:
                found[name].stop()
