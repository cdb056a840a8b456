"""Reviews over HTTPS: what is too long, too slow or no review gets an answer, and never holds up what others ask."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.adapters.web.reviews import ReviewEndpoint
from serviceidentity.adapters.web.server import HttpsServer
from serviceidentity.app.inventory import Inventory
from serviceidentity.app.jwt.serving import Answer
from serviceidentity.app.webhook.reviews import LONGEST, PATH, Reviews
from tests.contract.test_https import FIRST, Client, Held, client, route
from tests.unit.access.builders import access_policy_body
from tests.unit.domain.test_admission import broken, review

pytestmark = pytest.mark.contract
AS_JSON = {"Content-Type": "application/json"}
VALID = json.dumps(review("AccessPolicy", access_policy_body()))
Post = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]


def with_reviews(work: Callable[[Post, HttpsServer], Awaitable[None]], within: float = 2.0, **answering: Any) -> None:
    async def run() -> None:
        inventory = Inventory("system", compile_access=CelCompiler(("principal", "action")))
        endpoint = ReviewEndpoint(
            answering.get("review") or Reviews(inventory.readers).answer, within=within, most_at_once=2
        )
        held = Held()
        held.put(*FIRST)
        server = HttpsServer("127.0.0.1", 0, route, held.read, review=endpoint, look_every=0.02, idle=5.0)
        task = asyncio.create_task(server.run())

        async def post(
            body: str | bytes, path: str = f"{PATH}?timeout=3s", **headers: str
        ) -> tuple[int, dict[str, str], bytes]:
            given = {
                "Content-Length": str(len(body)),
                **AS_JSON,
                **{k.replace("_", "-"): v for k, v in headers.items()},
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
            connection = await Client.connect(server, context)
            connection.writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
            connection.writer.write(body.encode() if isinstance(body, str) else body)
            return await answer_of(connection)

        context = client()
        try:
            async with asyncio.timeout(30):
                while server.port is None:
                    await asyncio.sleep(0.01)
                await work(post, server)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def answer_of(connection: Client) -> tuple[int, dict[str, str], bytes]:
    """Read one answer, and that nothing comes after it."""
    head, _, body = (await connection.ended()).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    connection.writer.close()
    return int(first.split()[1]), headers, body


def test_a_review_is_answered_and_ends_its_connection():
    async def work(post: Post, _: HttpsServer) -> None:
        status, headers, body = await post(VALID)
        assert (status, headers["content-type"], headers["connection"]) == (200, "application/json", "close")
        assert json.loads(body)["response"] == {"uid": "asked-1", "allowed": True}
        status, _headers, body = await post(
            json.dumps(review("AccessPolicy", broken())), Content_Type="application/json; charset=utf-8"
        )
        assert (status, json.loads(body)["response"]["allowed"]) == (200, False)

    with_reviews(work)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ("nonsense", {}, 400),
        ("", {}, 400),
        (VALID.replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1"), {}, 400),
        (VALID, {"Content_Type": "text/plain"}, 400),
        (VALID, {"Content_Encoding": "gzip"}, 400),
        ("x", {"Content_Length": str(LONGEST + 1)}, 413),
    ],
    ids=["nonsense", "empty", "v1beta1", "text", "compressed", "long"],
)
def test_what_is_no_review_is_refused(
    body: str, headers: dict[str, str], expected: int, caplog: pytest.LogCaptureFixture
):
    async def work(post: Post, _: HttpsServer) -> None:
        status, _headers, text = await post(body, **headers)
        assert status == expected
        assert b"Traceback" not in text and b"nonsense" not in text

    with_reviews(work)
    assert not [line for line in caplog.records if line.levelname in ("WARNING", "ERROR")]


def test_a_body_in_chunks_is_too_long_as_soon_as_it_is():
    async def work(_: Post, server: HttpsServer) -> None:
        connection = await Client.connect(server)
        await connection.send(
            f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _number in range(LONGEST // 0x10000 + 1):
            connection.writer.write(chunk)
        assert (await answer_of(connection))[0] == 413

    with_reviews(work)


def test_only_a_post_is_a_review_and_it_is_posted_nowhere_else():
    async def work(post: Post, server: HttpsServer) -> None:
        status, headers, _body = await (await Client.connect(server)).ask(path=PATH)
        assert (status, headers["allow"]) == (405, "POST")
        assert (await (await Client.connect(server)).ask("POST", "/hello"))[0] == 405
        assert (await (await Client.connect(server)).ask("POST", PATH + "/x"))[0] == 405

    with_reviews(work)


def test_a_body_that_does_not_come_is_not_waited_for_and_does_not_hold_up_what_is_read():
    async def work(post: Post, server: HttpsServer) -> None:
        slow = [await Client.connect(server) for _ in range(3)]
        for one in slow:
            await one.send(
                f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n["
            )
        assert (await (await Client.connect(server)).ask())[0] == 200
        assert [(await answer_of(one))[0] for one in slow] == [503] * 3
        assert (await post(VALID))[0] == 200

    with_reviews(work, within=0.5)


def test_a_client_that_goes_in_the_middle_is_no_news(caplog: pytest.LogCaptureFixture):
    async def work(post: Post, server: HttpsServer) -> None:
        for _ in range(3):
            gone = await Client.connect(server)
            await gone.send(
                f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n["
            )
            gone.writer.transport.abort()
        assert (await post(VALID))[0] == 200

    with_reviews(work)
    assert "a request failed" not in caplog.text


def test_trouble_inside_is_a_500_without_a_word_about_the_object(caplog: pytest.LogCaptureFixture):
    async def breaks(body: bytes) -> Answer:
        raise ZeroDivisionError(body)

    async def work(post: Post, _: HttpsServer) -> None:
        assert [(await post(VALID))[::2] for _ in range(2)] == [(500, b"error\n")] * 2

    with_reviews(work, review=breaks)
    assert "ZeroDivisionError" in caplog.text
    assert "principal" not in caplog.text


def test_while_an_object_is_judged_others_are_answered():
    """Judging is done in a thread; a slow one must not stop the event loop."""

    def slow(body: Any) -> None:
        done.wait(10)

    done = threading.Event()

    async def work(post: Post, server: HttpsServer) -> None:
        waiting = asyncio.create_task(post(VALID))
        await asyncio.sleep(0.05)
        assert (await (await Client.connect(server)).ask())[0] == 200
        assert not waiting.done()
        done.set()
        assert (await waiting)[0] == 200

    with_reviews(work, within=20.0, review=Reviews({"AccessPolicy": slow}).answer)
