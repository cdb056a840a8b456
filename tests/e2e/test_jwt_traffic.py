"""A signer that never pauses, and verifiers that use a JWK Set for as long as they may: ten rotations, no failure."""

import json
import random
import threading
import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Self

import pytest
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from tests.controlplane import ControlPlane
from tests.e2e.support import Space, eventually, trust_domain

pytestmark = pytest.mark.e2e

CACHE_TIME, PROPAGATION, TTL = 2.0, 1.0, 10
QUICK: Final = {"rotateEvery": "40s", "maxTokenTTL": "10s", "cacheTime": "2s", "propagation": "1s"}
ROTATIONS: Final = 10
LATE: Final = 0.6  # of what the durations allow: the other part is for the requests of the test itself
SYSTEM: Final = "serviceidentity-system"
RULES: Final = jwt.JWTClaimsRegistry(leeway=0)


class Verifier:
    """Uses a JWK Set for its whole cache time, whatever key a token names: the worst that is allowed."""

    def __init__(self, fetch: Callable[[], bytes]) -> None:
        self._fetch, self._fetched, self._keys = fetch, float("-inf"), jwk.KeySet([])

    def refuses(self, token: str) -> str:
        if time.monotonic() - self._fetched > CACHE_TIME * LATE:
            self._fetched = time.monotonic()
            self._keys = jwk.KeySet.import_key_set(json.loads(self._fetch()))
        try:
            RULES.validate(jwt.decode(token, self._keys, algorithms=["ES256"]).claims)
        except (JoseError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return ""


class Traffic:
    """Tokens of one source, each verified at once and once more shortly before its end."""

    def __init__(self, issue: Callable[[], str], fetch: Callable[[], bytes]) -> None:
        self.issue, self.verifier = issue, Verifier(fetch)
        self.failures: list[str] = []
        self.verified, self.key_ids = 0, list[str]()
        self._held: deque[tuple[float, str]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            token = self.issue()
            claims, header = _part(token, 1), _part(token, 0)
            if header["kid"] not in self.key_ids:
                self.key_ids.append(header["kid"])
            self._held.append((claims["exp"] - 1.5, token))
            self._verify(token)
            while self._held and self._held[0][0] <= time.time():
                self._verify(self._held.popleft()[1])
            time.sleep(0.02)

    def _verify(self, token: str) -> None:
        left = _part(token, 1)["exp"] - time.time()
        if left > 0.3 and (why := self.verifier.refuses(token)):  # of what has ended meanwhile nothing is promised
            self.failures.append(f"{time.time():.1f} key {_part(token, 0)['kid'][:8]}, {left:.1f} s left: {why}")
        self.verified += 1


class Mounted:
    """A file of a Secret, which comes late into the Pod: within the propagation time."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read, self._content, self._next = read, read(), 0.0
        self._pending: tuple[float, bytes] | None = None

    def __call__(self) -> bytes:
        now = time.monotonic()
        if self._pending is None:
            self._pending = (now + random.uniform(0, PROPAGATION * LATE), self._read())
        if now >= self._pending[0]:
            self._content, self._pending = self._pending[1], None
        return self._content


def _part(token: str, number: int) -> dict[str, Any]:
    part = token.split(".")[number]
    return json.loads(b64decode(part + "=" * (-len(part) % 4), altchars=b"-_"))


def _active(plane: ControlPlane, domain: str) -> str:
    return next(key["keyID"] for key in plane.get("td", domain)["status"]["jwt"]["keys"] if key["state"] == "Active")


def _object(space: Space, kind: str, name: str, key: str, namespace: str | None = None) -> bytes:
    found = json.loads(space.plane.raw(f"/api/v1/namespaces/{namespace or space.name}/{kind}/{name}"))["data"][key]
    return found.encode() if kind == "configmaps" else b64decode(found)


def test_no_token_is_refused_through_ten_rotations_of_both_kinds_of_key(space: Space, control_plane: ControlPlane):
    trust_domain(control_plane, space.name, jwt=QUICK)
    token = {"name": "api", "audiences": ["payment-service"], "ttl": "10s"}
    space.apply("signer", {"trustDomainRef": {"name": space.name}, "jwt": QUICK | {"tokens": [token]}})
    space.ready()
    key = Mounted(lambda: _object(space, "secrets", "signer-jwt", "key.jwk"))

    def sign() -> str:
        signing = jwk.import_key(json.loads(key()))
        now = int(time.time())
        header = {"alg": "ES256", "kid": signing.kid}
        return jwt.encode(header, {"sub": "signer", "iat": now, "exp": now + TTL}, signing, algorithms=["ES256"])

    minted = Mounted(lambda: _object(space, "secrets", "signer-api-token", "token"))
    own = Traffic(sign, lambda: _object(space, "configmaps", "signer-jwks", "jwks.json"))
    issued = Traffic(
        lambda: minted().decode(),
        lambda: _object(space, "configmaps", "serviceidentity-jwks", f"{space.name}.json", SYSTEM),
    )
    with own, issued:
        for number in range(ROTATIONS):
            known = _active(control_plane, space.name)
            mark = f"serviceidentity.dev/rotate-jwt={number}"
            control_plane.kubectl("annotate", "--overwrite", "td", space.name, mark)
            new = eventually(lambda k=known: {_active(control_plane, space.name)} - {k}, 15)
            # The service's own key begins to rotate now, and its token is signed with the new key of the trust domain.
            space.kubectl("annotate", "--overwrite", "sid", "signer", f"serviceidentity.dev/rotate={number}")
            eventually(lambda n=new: n <= set(issued.key_ids), 15)
        eventually(lambda: len(own.key_ids) > ROTATIONS, 15)
    print(f"{own.verified} and {issued.verified} verifications, {len(own.key_ids)} and {len(issued.key_ids)} keys")
    assert own.failures == issued.failures == []
    assert len(own.key_ids) > ROTATIONS and len(issued.key_ids) > ROTATIONS
    assert own.verified > 500 and issued.verified > 500
