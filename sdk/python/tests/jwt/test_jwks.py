"""Where keys come from: mounted files, and a URL that can be slow, wrong or away."""

import asyncio
from datetime import timedelta

import httpx
import pytest

from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.credentials import CredentialError, Directory, Watch
from serviceidentity_sdk.jwt import MountedKeys, RemoteKeys, TokenError, TokenVerifier, UnavailableError, read_jwks

from .tokens import ES256, NOW, PAIRS, Pair, jwks, token

URL = "https://auth.shop.svc/jwks.json"
OLD, NEW = ES256, Pair("ES256")


class Server:
    """A JWKS endpoint that answers as it is told to, and counts."""

    def __init__(self, *published):
        self.time = 0.0
        self.asked = 0
        self.hold = None
        self.publish(*published)

    def publish(self, *pairs, **headers):
        self.answer = lambda _: httpx.Response(200, text=jwks(*(pair.published() for pair in pairs)), headers=headers)

    async def __call__(self, request):
        if str(request.url) != URL:  # where a redirect leads
            return httpx.Response(200, text=jwks(NEW.published()))
        self.asked += 1
        held, self.hold = self.hold, None
        await (held or asyncio.sleep(0))
        return self.answer(request)

    def keys(self, **options):
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return RemoteKeys(URL, client, monotonic=lambda: self.time, **options)

    def fail(self, kind):
        def away(request):
            raise httpx.ConnectError("refused")

        answers = {
            "away": away,
            "500": lambda _: httpx.Response(500, text=jwks(NEW.published())),
            "redirect": lambda _: httpx.Response(302, headers={"location": "https://evil/"}),
            "html": lambda _: httpx.Response(200, text="<html>"),
            "list": lambda _: httpx.Response(200, text="[]"),
            "huge": lambda _: httpx.Response(200, content=b" " * 600_000 + jwks(NEW.published()).encode()),
        }
        self.answer = answers[kind]


def known(keys, pair):
    return any(key.key_id == pair.kid for key in asyncio.run(keys.keys(pair.kid)).keys)


def test_a_set_is_fetched_once_for_its_time():
    server = Server(OLD)
    keys = server.keys()
    assert all(known(keys, OLD) for _ in range(5))
    server.time = 299
    assert known(keys, OLD)
    assert server.asked == 1
    server.time = 300
    assert known(keys, OLD)
    assert server.asked == 2


def test_a_shorter_max_age_of_the_answer_counts():
    server = Server()
    server.publish(OLD, **{"cache-control": "public, max-age=60"})
    keys = server.keys()
    assert known(keys, OLD)
    server.time = 59
    assert known(keys, OLD) and server.asked == 1
    server.time = 60
    assert known(keys, OLD) and server.asked == 2


def test_a_longer_max_age_does_not():
    server = Server()
    server.publish(OLD, **{"cache-control": "max-age=86400"})
    keys = server.keys()
    assert known(keys, OLD)
    server.time = 300
    assert known(keys, OLD) and server.asked == 2


def test_an_unknown_kid_makes_it_fetch_after_the_cooldown_only():
    server = Server(OLD)
    keys = server.keys()
    assert known(keys, OLD)
    server.publish(OLD, NEW)
    server.time = 9.9
    assert not known(keys, NEW) and server.asked == 1
    server.time = 10
    assert known(keys, NEW) and server.asked == 2
    for _ in range(50):
        assert not known(keys, PAIRS["EdDSA"])
    assert server.asked == 2


def test_many_at_once_fetch_once():
    server = Server(OLD)

    async def run():
        keys = server.keys()
        return await asyncio.gather(*(keys.keys(OLD.kid) for _ in range(50)))

    assert len(asyncio.run(run())) == 50
    assert server.asked == 1


def test_nobody_waits_for_a_fetch_who_has_a_good_key():
    server = Server(OLD)

    async def run():
        keys = server.keys()
        await keys.keys(OLD.kid)
        server.time = 400
        hangs = asyncio.Event()
        server.hold = hangs.wait()
        first = asyncio.create_task(keys.keys(OLD.kid))
        while server.asked < 2:
            await asyncio.sleep(0)
        await keys.keys(OLD.kid)
        assert not first.done()
        hangs.set()
        return await first

    assert asyncio.run(run())
    assert server.asked == 2


def test_whoever_gives_up_leaves_the_fetch_to_the_next():
    server = Server(OLD)

    async def run():
        keys = server.keys()
        server.hold = asyncio.Event().wait()
        first = asyncio.create_task(keys.keys(OLD.kid))
        while server.asked < 1:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        return await keys.keys(OLD.kid)

    assert asyncio.run(run()).knows(OLD.kid)
    assert server.asked == 2


@pytest.mark.parametrize("kind", ["away", "500", "redirect", "html", "list", "huge"])
def test_the_last_good_set_stays_while_the_url_does_not_answer_as_it_should(kind):
    server = Server(OLD)
    keys = server.keys(keep=timedelta(hours=1))
    assert known(keys, OLD)
    server.fail(kind)
    server.time = 3600
    assert known(keys, OLD)
    assert not known(keys, NEW)
    server.time = 3601
    with pytest.raises(UnavailableError):
        known(keys, OLD)
    server.publish(NEW)
    server.time = 3620
    assert known(keys, NEW) and not known(keys, OLD)


def test_without_a_first_set_there_is_no_answer_and_no_storm():
    server = Server()
    server.fail("away")
    keys = server.keys()
    for _ in range(20):
        with pytest.raises(UnavailableError):
            known(keys, OLD)
    assert server.asked == 1
    server.publish(OLD)
    server.time = 10
    assert known(keys, OLD)


def test_keys_that_were_taken_back_are_gone():
    server = Server(OLD)
    keys = server.keys()
    assert known(keys, OLD)
    server.publish()
    server.time = 300
    assert not known(keys, OLD)


@pytest.mark.parametrize(
    "url", ["http://auth.shop.svc/jwks.json", "file:///etc/jwks.json", "ftp://x/", "", "auth/jwks.json"]
)
def test_keys_do_not_come_in_the_clear(url):
    with pytest.raises(ValueError):
        RemoteKeys(url, httpx.AsyncClient())


def test_a_mounted_set_is_followed_through_a_rotation(tmp_path):
    volume = Volume(tmp_path / "jwks", {"jwks.json": jwks(OLD.published()).encode()})
    watch = Watch([Directory(volume.path)], read_jwks)
    verifier = TokenVerifier(MountedKeys(watch), clock=lambda: NOW)

    def accepted(pair):
        try:
            return bool(asyncio.run(verifier.verify(token(pair=pair))))
        except TokenError:
            return False

    assert (accepted(OLD), accepted(NEW)) == (True, False)
    for content, expected in (
        (jwks(OLD.published(), NEW.published()), (True, True)),
        ("broken", (True, True)),
        (jwks(NEW.published()), (False, True)),
    ):
        volume.swap({"jwks.json": content.encode()})
        watch.check()
        assert (accepted(OLD), accepted(NEW)) == expected


def test_a_mounted_set_that_is_none(tmp_path):
    with pytest.raises(CredentialError):
        Watch([Directory(Volume(tmp_path / "a", {"jwks.json": b"{}"}).path)], read_jwks)
