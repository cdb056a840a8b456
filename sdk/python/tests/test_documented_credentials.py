"""The lines in docs/sdk/signed-requests.md and docs/sdk/jwt.md do what is said there."""

import asyncio
import functools
import json
import re
from pathlib import Path

import httpx

from sdk.python.tests.jwt.tokens import Pair, b64, jwks
from sdk.python.tests.volumes import Volume

DOCS = Path(__file__).parents[3] / "docs" / "sdk"
KEY = b"\x07" * 32
JWK = {"kty": "oct", "alg": "HS256", "kid": "k1", "k": b64(KEY), "state": "Active", "changed": "2027-01-15T12:00:00Z"}


def blocks(page, folder):
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [code.replace("/identity", str(folder)) for code in found]


def test_signed_requests(tmp_path, monkeypatch, capsys):
    services = {"order-service": {"keys": [JWK]}}
    Volume(tmp_path / "hmac-keyring", {"keyring.json": json.dumps({"services": services}).encode()})
    Volume(tmp_path / "hmac", {"keys.json": json.dumps({"keys": [JWK]}).encode()})
    server, client, redis, standard = blocks("signed-requests.md", tmp_path)
    at_server, at_client = {}, {}
    exec(server, at_server)
    try:
        transport = httpx.ASGITransport(at_server["app"])
        monkeypatch.setattr(httpx, "AsyncClient", functools.partial(httpx.AsyncClient, transport=transport))
        exec(client, at_client)
        asyncio.run(at_client["main"]())
        assert capsys.readouterr().out == "{'caller': 'order-service'}\n"
        exec(redis, {})
        exec(standard, {"keyring": at_server["keyring"], "key": None})
    finally:
        at_server["keyring"].stop()


def test_tokens(tmp_path):
    pair = Pair("ES256")
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
    finally:
        found["jwks"].stop()
        if "key" in found:
            found["key"].stop()
