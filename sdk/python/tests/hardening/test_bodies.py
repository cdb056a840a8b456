"""A bound on bodies, and an answer to faults."""

import logging

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serviceidentity_sdk.hardening import BodyLimit, Faults


async def length(request):
    return PlainTextResponse(str(len(await request.body())))


async def broken(request):
    raise RuntimeError("hunter2")


async def own(request):
    return PlainTextResponse("out of order", 500)


async def half(request):
    async def parts():
        yield b"half"
        raise RuntimeError("hunter2")

    return StreamingResponse(parts())


APP = Starlette(
    routes=[Route("/", length, methods=["POST"]), Route("/broken", broken), Route("/half", half), Route("/own", own)]
)


@pytest.mark.parametrize(("size", "status"), [(0, 200), (10, 200), (11, 413), (10_000, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_have_so_many_bytes_and_no_more(size, status, chunked):
    client = TestClient(BodyLimit(APP, largest=10))
    body = b"x" * size
    answer = client.post("/", content=iter([body[:5], body[5:]]) if chunked else body)
    assert answer.status_code == status
    if status == 413:
        assert answer.json() == {"error": "Request body too large"}
        assert answer.headers["connection"] == "close"
    else:
        assert answer.text == str(size)


def test_a_fault_is_answered_and_logged_without_its_text(caplog):
    client = TestClient(Faults(APP))
    with caplog.at_level(logging.DEBUG):
        answer = client.get("/broken")
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal server error"})
    assert "hunter2" not in caplog.text + answer.text
    assert "a request failed: RuntimeError at " in caplog.text and "test_bodies.py" in caplog.text


def test_a_fault_that_nobody_answered_is_500():
    async def app(scope, receive, send):
        raise RuntimeError("hunter2")

    answer = TestClient(Faults(app)).get("/")
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal server error"})


def test_an_answer_of_the_application_itself_stays():
    answer = TestClient(Faults(APP)).get("/own")
    assert (answer.status_code, answer.text) == (500, "out of order")


def test_an_answer_that_breaks_off_is_not_passed_off_as_whole():
    with pytest.raises(RuntimeError, match="^an answer was cut off$"):
        TestClient(Faults(APP)).get("/half")
