"""The lines on the pages about authorisation, configuration, hardening and Vault do what is said there."""

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from starlette.testclient import TestClient

from sdk.python.tests.authz.apps import Authenticated, get
from sdk.python.tests.config.test_encrypted import KEY_TEXT, encrypted
from sdk.python.tests.vault.fake import FakeVault
from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.hardening import LimitedError, Limiter, MemoryCounts, headers
from serviceidentity_sdk.vault import Vault

PAGES = Path(__file__).parents[3] / "docs" / "sdk"


def lines(page, number, **replaced):
    code = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)[number]
    for old, new in replaced.items():
        assert old in code
        code = code.replace(old, new)
    return code


def done(page, number, **names):
    exec(lines(page, number), names)
    return names


def test_authorisation():
    for number, path, allowed, refused in ((0, "/reports", "admin", "clerk"), (1, "/orders", "clerk", "nobody")):
        app = done("authorisation", number)["app"]
        app.add_middleware(Authenticated)
        assert [get(app, path, who).status_code for who in (allowed, refused, "")] == [200, 403, 401]
    app = done("authorisation", 0)["app"]
    assert get(app, "/healthz").json() == "ok"


def test_configuration(monkeypatch):
    monkeypatch.setenv("MASTER_KEY", KEY_TEXT)
    monkeypatch.setenv("DATABASE_URL", "postgresql://db")
    monkeypatch.setenv("STRIPE_KEY", encrypted(b"sk"))
    monkeypatch.setenv("PORT", "8443")
    with pytest.raises(ValueError, match="/identity/stripe"):  # here is no Pod
        done("configuration", 0)
    page = lines("configuration", 0).replace(', directories=["/identity/stripe"]', "")
    found = {}
    exec(page, found)
    assert (found["url"], found["port"], found["debug"], found["secrets"]["STRIPE_KEY"]) == (
        "postgresql://db",
        8443,
        False,
        "sk",
    )


def test_hardening():
    app = done("hardening", 0)["app"]
    app.add_api_route("/login", lambda: "in", methods=["POST"])
    app.add_api_route("/", lambda: "home")
    client = TestClient(app)
    home = client.get("/")  # there is no such Redis: each process counts for itself
    assert home.headers["ratelimit"].startswith('"api";r=99;')
    assert home.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains; preload"
    assert client.post("/login").status_code == 503


def test_a_login_by_account():
    log_in = done("hardening", 1, password_is_right=lambda _name, password: password == "right")["log_in"]

    async def run():
        counts = MemoryCounts(time.monotonic)
        assert [await log_in(counts, "ada", "right") for _ in range(9)] == [True] * 9
        assert [await log_in(counts, "ada", "wrong") for _ in range(5)] == [False] * 5
        assert not await log_in(counts, "ada", "right")
        assert await log_in(counts, "carl", "right")

    asyncio.run(run())


def test_the_security_headers_are_those_of_the_table():
    table = dict(re.findall(r"^\| ([A-Z][\w-]+) \| `(.*)` \|$", (PAGES / "hardening.md").read_text(), re.MULTILINE))
    expected = headers.HEADERS | {
        "content-security-policy": headers.CSP_API,
        "strict-transport-security": headers.HSTS,
    }
    assert {name.lower(): value for name, value in table.items()} == expected
    assert f"`{headers.CSP_PAGES}`" in (PAGES / "hardening.md").read_text()


def test_vault(monkeypatch, tmp_path):
    server = FakeVault(time.monotonic)
    server.values["secret/data/api-keys/stripe"] = {"key": "sk"}
    proof = tmp_path / "token"
    proof.write_text("proof")
    plain = Vault.__init__

    def with_server(self, *arguments, **options):
        plain(self, *arguments, token_file=proof, requests=server, **options)

    monkeypatch.setattr(Vault, "__init__", with_server)
    connected = []

    def connect(user, password):
        connected.append((user, password))

    names = done("vault", 0, connect=connect)
    asyncio.run(done("vault", 1, connect=connect)["main"](names["vault"]))
    assert names["key"] == "sk" and len(set(connected)) == 1 and len(connected) == 2
    assert not server.living()


def test_data_keys(tmp_path):
    Volume(tmp_path / "files", {"plaintext": b"k" * 32, "ciphertext": b"vault:v1:a"})
    code = lines("data-keys", 0).replace("/identity", str(tmp_path))
    names = {"unwrap": lambda wrapped: {"vault:v1:b": b"o" * 32}[wrapped]}
    exec(code, names)
    try:
        wrapped, stored = names["encrypt"](b"content", "a/file")
        assert wrapped == "vault:v1:a" and b"content" not in stored
        assert names["decrypt"](wrapped, stored, "a/file") == b"content"
        for place in ((wrapped, "another/file"), ("vault:v1:b", "a/file")):
            with pytest.raises(InvalidTag):
                names["decrypt"](place[0], stored, place[1])
    finally:
        names["keys"].stop()
    compile(lines("data-keys", 1), "data-keys.md", "exec")


def test_a_client_without_a_certificate(pki, tmp_path):
    Volume(tmp_path / "trust", {"ca.crt": pki.leaf("order-service").files()["ca.crt"]})
    page = (PAGES.parent / "trust-bundles.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code.replace("/identity", str(tmp_path)), names)
    names["client"]().close()
    names["roots"].stop()


@pytest.mark.parametrize("page", ["README", "service", "data-keys", "jwt", "configuration", "mtls", "signed-requests"])
def test_links_lead_somewhere(page):
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", (PAGES / f"{page}.md").read_text()):
        target = (PAGES / file).resolve() if file else PAGES / f"{page}.md"
        assert target.exists(), file
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}, anchor


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("authz", "starlette", "asgi"),
        ("hardening", "starlette", "asgi"),
        ("hardening", "nh3", "hardening"),
        ("hardening", "pydantic", "hardening"),
        ("hardening.redis", "redis", "redis"),
        ("vault", "hvac", "vault"),
        ("postgres", "psycopg", "postgres"),
        ("postgres", "psycopg_pool", "postgres"),
    ],
)
def test_an_import_says_which_extra_is_missing(module, missing, extra):
    code = f"import sys; sys.modules[{missing!r}] = None; import serviceidentity_sdk.{module}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert f"pip install 'serviceidentity-sdk[{extra}]'" in told.splitlines()[-1]


def test_neither_starlette_nor_fastapi_is_needed_for_settings():
    code = "import sys; sys.modules.update(dict.fromkeys(['starlette', 'fastapi', 'pydantic', 'redis', 'hvac']))\n"
    subprocess.run([sys.executable, "-c", code + "import serviceidentity_sdk.config"], check=True)
    code = "import sys; sys.modules['fastapi'] = None; import serviceidentity_sdk.authz, serviceidentity_sdk.hardening"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exhausted_account_is_an_answer_of_its_own():
    async def run():
        limiter = Limiter(done("hardening", 1, password_is_right=None)["LOGIN"], MemoryCounts(time.monotonic))
        for _ in range(5):
            await limiter.take("x")
        with pytest.raises(LimitedError):
            await limiter.take("x")

    asyncio.run(run())
