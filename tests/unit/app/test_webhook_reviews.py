"""Judging an object is bounded: by one thread, whatever became of those who asked."""

import asyncio
import json
import threading
from typing import Any

from serviceidentity.app.webhook.reviews import Reviews

KIND = {"group": "serviceidentity.dev", "version": "v1alpha1", "kind": "AccessPolicy"}


def review(name: str) -> bytes:
    asked = {"uid": "u", "kind": KIND, "operation": "CREATE", "object": {"metadata": {"name": name}, "spec": {}}}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}).encode()


class SlowReader:
    def __init__(self) -> None:
        self.go_on, self.begun, self.at_once, self.most = threading.Event(), [], 0, 0
        self._lock = threading.Lock()

    def __call__(self, body: Any) -> None:
        with self._lock:
            self.begun.append(body["metadata"]["name"])
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.go_on.wait(10)
        with self._lock:
            self.at_once -= 1


def test_reviews_that_nobody_waits_for_any_more_are_not_judged_side_by_side_nor_begun_at_all() -> None:
    read = SlowReader()

    async def story() -> None:
        reviews = Reviews({"AccessPolicy": read})
        given_up = [asyncio.create_task(reviews.answer(review(f"late-{n}"))) for n in range(5)]
        while not read.begun:
            await asyncio.sleep(0)
        for one in given_up:
            one.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        last = asyncio.create_task(reviews.answer(review("last")))
        await asyncio.sleep(0.05)
        assert read.begun == ["late-0"]
        read.go_on.set()
        assert (await last).status == 200

    asyncio.run(story())
    assert read.begun == ["late-0", "last"] and read.most == 1


def test_a_thread_of_the_loop_stays_free_for_others() -> None:
    read = SlowReader()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        reviews = Reviews({"AccessPolicy": read})
        waiting = [asyncio.create_task(reviews.answer(review("a"))) for _ in range(64)]
        while not read.begun:
            await asyncio.sleep(0)
        assert await asyncio.wait_for(loop.run_in_executor(None, str, 1), 5) == "1"
        read.go_on.set()
        await asyncio.gather(*waiting)

    asyncio.run(story())
