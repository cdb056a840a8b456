"""The parts of the demo, in order. Each shows something, checks it, and says in one line how it went."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from examples.demo import mtls, rotation, signing, stranger, tokens, vault
from examples.demo.mtls import Files
from examples.demo.screen import Screen
from examples.demo.shop import MANIFESTS, SERVICES, Shop, reached_after

SECONDS_OF_TRAFFIC: Final = 25
CALM: Final = {
    "certificate": {"duration": None, "renewBefore": None},
    "hmac": {"rotateEvery": None, "overlap": None, "publishBefore": None},
}
FAST: Final = {
    "certificate": {"duration": "20s", "renewBefore": "14s"},
    "hmac": {"rotateEvery": "12s", "overlap": "5s", "publishBefore": "2s"},
}


def issue(shop: Shop, screen: Screen) -> None:
    """Apply the manifests as a team does, and look at what they lead to."""
    shop.plane.kubectl("apply", "--kustomize", str(MANIFESTS))
    started = time.monotonic()
    shop.kubectl("wait", "--for=condition=Ready", "sid", "--all", "--timeout=30s")
    screen.step("all identities Ready", True, f"{time.monotonic() - started:.1f} s after kubectl apply returned")
    screen.say(shop.kubectl("get", "sid"))
    secrets = [[name, kind, " ".join(keys)] for name, kind, keys in shop.secrets()]
    screen.say("")
    screen.columns([["SECRET", "TYPE", "KEYS"], *secrets])
    if shutil.which("openssl") is None:
        screen.say("\nno openssl on PATH: its verdict on the chains is left out")
        return
    for service in SERVICES:
        screen.step(f"openssl verifies {service}", *_openssl(shop.files(f"{service}-tls")))


def handshakes(shop: Shop, screen: Screen) -> None:
    """Mutual TLS, accepted and refused."""
    client, server = shop.files("order-service-tls"), shop.files("payment-service-tls")
    name, roots = "payment-service.shop.svc", client["ca.crt"]
    seen = mtls.connect(server, client, name, roots=roots)
    caller = seen.caller
    right = seen.established and caller is not None and caller.common_name == "order-service"
    refusal = seen.server_refused or seen.client_refused
    screen.step("both sides verified", right, f"{seen.version}, server says: {seen.answer}" if right else refusal)
    other = mtls.connect(shop.files("inventory-service-tls"), client, name, roots=roots)
    screen.step("server of another name: refused by client", bool(other.client_refused), other.client_refused)
    names = (caller.common_name, caller.spiffe_id) if caller else ("order-service", "spiffe://unknown")
    for what, given in (("no client certificate", None), ("same names, another CA", stranger.files(*names))):
        seen = mtls.connect(server, given, name, roots=roots)
        refused = bool(seen.server_refused) and seen.caller is None and not seen.answer
        detail = f"{seen.server_refused} (client sees: {seen.client_refused})" if refused else "was let in"
        screen.step(f"{what}: refused by server", refused, detail)


def requests(shop: Shop, screen: Screen) -> None:
    """Signed requests, accepted and refused. Time is handed in, so nobody has to wait for the window to pass."""
    key = bytes.fromhex(shop.files("order-service-hmac")["key"].decode())
    keyring = shop.files("payment-service-hmac-keyring")["keyring.json"]
    body, now = {"amount": 12.5, "currency": "EUR", "note": "für Käse"}, int(time.time() * 1000)
    headers = signing.sign("order-service", key, body, now)
    late = now + signing.WINDOW_MS
    cases = (
        ("signed request: accepted", headers, body, now, "from order-service"),
        ("last millisecond of the window: accepted", headers, body, late, "from order-service"),
        ("replayed after the window: refused", headers, body, late + 1, "Expired"),
        ("from the future: refused", headers, body, now - signing.WINDOW_MS - 1, "IssuedInTheFuture"),
        ("body changed: refused", headers, body | {"amount": 0.01}, now, "BadSignature"),
        ("unknown service: refused", headers | {"X-Service-ID": "nobody"}, body, now, "UnknownService"),
        ("signature of wrong length: refused", headers | {"X-Signature": "ab"}, body, now, "BadSignature"),
    )
    for what, given, content, at, expected in cases:
        answer = signing.verdict(keyring, given, content, at)
        screen.step(what, answer.startswith(expected), answer)


def rotations(shop: Shop, screen: Screen) -> None:
    """Certificate and key of order-service rotate every few seconds while both are in use."""
    first = bytes.fromhex(shop.files("order-service-hmac")["key"].decode())
    shop.patch("order-service", FAST)
    tally = rotation.run(shop.files, SECONDS_OF_TRAFFIC, screen.say)
    for failure in tally.failures[:5]:
        screen.say(failure)
    detail = f"{tally.connections} connections, {tally.requests} signed requests, {len(tally.failures)} failed"
    screen.step("nothing failed while all was rotated", not tally.failures and tally.requests > 0, detail)
    renewals, keys = len(tally.serials) - 1, len(tally.signers) - 1
    screen.step("certificate renewed in use", renewals > 1, f"{renewals} times")
    screen.step("HMAC key rotated in use", keys > 0, f"{keys} times")
    now = int(time.time() * 1000)
    headers = signing.sign("order-service", first, {}, now)
    answer = signing.verdict(shop.files("payment-service-hmac-keyring")["keyring.json"], headers, {}, now)
    screen.step("first key, after its overlap: refused", answer.startswith("BadSignature"), answer)
    shop.patch("order-service", CALM)
    screen.say("the rotation is slow again; waiting until nothing is due ...")
    shop.settle()  # the previous key is still on its way out


def repair(shop: Shop, screen: Screen) -> None:
    """Rotation on demand, and drift."""
    before = shop.serial("payment-service")
    shop.kubectl("annotate", "--overwrite", "sid", "payment-service", f"serviceidentity.dev/rotate={time.time():.0f}")
    took = reached_after(lambda: shop.serial("payment-service") != before)
    detail = (
        f"{before[:12]} -> {shop.serial('payment-service')[:12]}, {_milliseconds(took)} after kubectl annotate returned"
    )
    screen.step("rotated by annotation within a second", took is not None and took < 1, detail)
    _delete_and_wait(shop, screen, "deleted Secret is back as it was")


def restart(shop: Shop, screen: Screen) -> None:
    """Kill the operator, start another one: it finds everything as it should be."""
    shop.settle()
    before = shop.writes()
    shop.operator.kill()
    shop.operator.start()
    time.sleep(2)
    written = shop.writes() - before
    detail = f"{written.total()} writes in two seconds"
    detail += "".join(f", {number} {what}" for what, number in written.items())
    screen.step("restart after kill -9: nothing written", not written, detail)
    _delete_and_wait(shop, screen, "new operator restores a deleted Secret")


PARTS: Final[tuple[tuple[str, Callable[[Shop, Screen], None]], ...]] = (
    ("Three services ask for an identity", issue),
    ("Mutual TLS: order-service calls payment-service", handshakes),
    ("Signed requests: order-service calls payment-service", requests),
    ("Tokens: order-service calls payment-service", tokens.tokens),
    (f"Rotation in fast motion, under traffic for {SECONDS_OF_TRAFFIC} seconds", rotations),
    ("On demand, and by accident", repair),
    ("Secrets of Vault, and values in Git", vault.secrets),
    ("After a restart", restart),
)


def _delete_and_wait(shop: Shop, screen: Screen, what: str) -> None:
    """Delete a Secret; its content, key included, has to come back as it was."""
    content = shop.files("order-service-tls")
    shop.kubectl("delete", "secret", "order-service-tls")
    took = reached_after(lambda: shop.files_or_none("order-service-tls") == content)
    screen.step(what, took is not None, f"order-service-tls, {_milliseconds(took)} after kubectl delete returned")


def _openssl(files: Files) -> tuple[bool, str]:
    """Return whether OpenSSL accepts the chain for a server and for a client, and what it says."""
    with tempfile.TemporaryDirectory() as directory:
        for name in ("tls.crt", "ca.crt"):
            (Path(directory) / name).write_bytes(files[name])
        for purpose in ("sslserver", "sslclient"):
            command = ["openssl", "verify", "-x509_strict", f"-purpose={purpose}"]
            command += ["-CAfile", "ca.crt", "-untrusted", "tls.crt", "tls.crt"]
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
            if done.returncode:
                return False, f"as {purpose}: {done.stderr.strip().splitlines()[-1]}"
    return True, "leaf, intermediate and root, as server and as client"


def _milliseconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds * 1000:.0f} ms"
