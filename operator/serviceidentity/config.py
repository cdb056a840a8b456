"""How one operator process is set up: command line flags, each with an environment variable of the same meaning."""

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from serviceidentity.domain.encryption.ring import SHORTEST_ROTATION
from serviceidentity.domain.jwt.parse import is_issuer
from serviceidentity.domain.schedule import parse_duration

_LAST_PORT: Final = 65535
_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_MASTER_KEYS: Final = re.compile(r"file:/[^,]+|secret:[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._-]+)?")
DEFAULT_NAMESPACE: Final = "serviceidentity-system"
DEFAULT_JWKS_SECRET: Final = "serviceidentity-jwks-tls"  # noqa: S105  # the name of one
_ENCRYPTION: Final = re.compile(r"none|file:/[^,]+|transit:{0}(/{0})+".format(r"\w[\w.-]*"), re.ASCII)


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one operator process.

    `namespaces` None means all of them. `authority_namespace` is where CA keys live: the operator's own. The first of
    `ca_key_encryption` says how they are stored, each of them can read what it stored once.
    `master_key_namespaces` None means all of them. Identities of
    `vault_allowed_namespaces` may use the connection that VAULT_ADDR names, which is the operator's own. `jwks_url` is
    where verifiers reach the operator's JWK Sets; None is the Service in its own namespace.
    `jwks_address` None: nothing is served.
    """

    namespaces: tuple[str, ...] | None
    authority_namespace: str
    kubeconfig: str | None
    context: str | None
    events: bool
    leader_elect: bool
    probe_address: str | None
    resync_seconds: float
    log_level: str
    ca_key_encryption: tuple[str, ...] = ("none",)
    master_keys: str | None = None
    master_key_namespaces: tuple[str, ...] | None = None
    rotate_encryption_key_every: timedelta | None = None
    vault_allowed_namespaces: tuple[str, ...] = ()
    jwks_url: str | None = None
    jwks_address: tuple[str, int] | None = None
    jwks_secret: str = DEFAULT_JWKS_SECRET


def from_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Read the command line; what is not given there comes from the environment. Exits with usage on nonsense."""
    parser = argparse.ArgumentParser(
        prog="serviceidentity-operator",
        description="Gives every ServiceIdentity its certificates and keys, and rotates them.",
    )

    def setting(flag: str, variable: str, default: str, text: str, read: Callable[[str], Any] = str) -> None:
        parser.add_argument(
            flag, default=environment.get(variable, default), metavar="VALUE", help=f"{text} [{variable}]", type=read
        )

    setting("--namespaces", "SIO_NAMESPACES", "", "namespaces to serve, separated by commas; empty: all")
    setting("--authority-namespace", "SIO_AUTHORITY_NAMESPACE", own_namespace(environment), "where CA keys are kept")
    setting("--kubeconfig", "KUBECONFIG", "", "kubeconfig file; empty: the pod's service account")
    setting("--context", "SIO_CONTEXT", "", "context of the kubeconfig; empty: its current one")
    setting("--events", "SIO_EVENTS", "on", "write Kubernetes Events: on or off")
    setting("--leader-elect", "SIO_LEADER_ELECT", "off", "work only while holding the Lease: on or off")
    setting("--probe-address", "SIO_PROBE_ADDRESS", "", "host:port of the liveness endpoint /healthz; empty: none")
    setting("--resync", "SIO_RESYNC", "600", "seconds between complete comparisons with the API server")
    setting("--log-level", "SIO_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR")
    setting(
        "--ca-key-encryption",
        "SIO_CA_KEY_ENCRYPTION",
        "none",
        "how CA keys are stored: none, file:/PATH or transit:MOUNT/KEY; more of them, after a comma, only decrypt",
    )
    setting(
        "--master-keys",
        "SIO_MASTER_KEYS",
        "",
        "master keys of symmetric encrypted values: file:/PATH or secret:NAME[/KEY]; empty: that form is not decrypted",
    )
    setting(
        "--master-key-namespaces",
        "SIO_MASTER_KEY_NAMESPACES",
        "",
        "namespaces whose identities may have symmetric encrypted values, separated by commas; empty: all",
    )
    setting(
        "--encryption-key-rotation",
        "SIO_ENCRYPTION_KEY_ROTATION",
        "",
        "how often a new key pair is made for encrypted values, such as 2160h; empty: only when asked",
    )
    setting(
        "--vault-allowed-namespaces",
        "SIO_VAULT_ALLOWED_NAMESPACES",
        "",
        "namespaces that may use the connection of VAULT_ADDR, separated by commas; * stands for any characters",
    )
    setting(
        "--jwks-url",
        "SIO_JWKS_URL",
        "",
        "https URL at which verifiers find the JWK Sets; empty: https://serviceidentity-jwks.<own namespace>.svc",
    )
    setting(
        "--jwks-address",
        "SIO_JWKS_ADDRESS",
        "",
        "host:port to serve JWK Sets and bundles at; empty: not served",
        parse_address,
    )
    setting(
        "--jwks-secret", "SIO_JWKS_SECRET", DEFAULT_JWKS_SECRET, "the Secret with the certificate to serve them with"
    )
    given = _parsed(parser, arguments)
    try:
        resync = float(given.resync)
    except ValueError:
        parser.error("--resync is a number of seconds")
    try:
        encryption = parse_key_encryption(given.ca_key_encryption)
    except ValueError as error:
        parser.error(f"--ca-key-encryption: {error}")
    if given.master_keys and not _MASTER_KEYS.fullmatch(given.master_keys):
        parser.error("--master-keys is file:/PATH or secret:NAME or secret:NAME/KEY")
    try:
        every = parse_duration(given.encryption_key_rotation) if given.encryption_key_rotation else None
    except ValueError:
        every = timedelta(0)
    if every is not None and every < SHORTEST_ROTATION:
        parser.error("--encryption-key-rotation is a duration of at least 1h, such as 2160h")
    return Config(
        namespaces=_names(given.namespaces) or None,
        authority_namespace=given.authority_namespace,
        kubeconfig=given.kubeconfig or None,
        context=given.context or None,
        events=given.events == "on",
        leader_elect=given.leader_elect == "on",
        probe_address=given.probe_address or None,
        resync_seconds=resync,
        log_level=given.log_level.upper(),
        ca_key_encryption=encryption,
        master_keys=given.master_keys or None,
        master_key_namespaces=_names(given.master_key_namespaces) or None,
        rotate_encryption_key_every=every,
        vault_allowed_namespaces=_names(given.vault_allowed_namespaces),
        jwks_url=given.jwks_url or None,
        jwks_address=given.jwks_address,
        jwks_secret=given.jwks_secret or DEFAULT_JWKS_SECRET,
    )


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line and check what has a simple form."""
    given = parser.parse_args(arguments)
    for flag in ("events", "leader_elect"):
        if getattr(given, flag) not in ("on", "off"):
            parser.error(f"--{flag.replace('_', '-')} is on or off")
    if given.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        parser.error("--log-level is DEBUG, INFO, WARNING or ERROR")
    if given.jwks_url and not is_issuer(given.jwks_url):
        parser.error("--jwks-url is an https URL without query, fragment or slash at its end")
    return given


def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted({name.strip() for name in text.split(",") if name.strip()}))


def parse_key_encryption(text: str) -> tuple[str, ...]:
    """Read ways to encrypt, separated by commas. Raises ValueError with what is wrong."""
    ways = tuple(way.strip() for way in text.split(","))
    if not all(map(_ENCRYPTION.fullmatch, ways)):
        raise ValueError("none, file:/PATH or transit:MOUNT/KEY, or several of them separated by commas")
    if "none" in ways[1:]:
        raise ValueError("none can only be the first: then what was encrypted is stored in plain again")
    if sum(way.startswith("file:") for way in ways) > 1 or len(set(ways)) != len(ways):
        raise ValueError("one file holds as many keys as are needed, and no way is named twice")
    return ways


def parse_address(text: str) -> tuple[str, int] | None:
    """Read host:port, an IPv6 address in brackets; nothing is none. Raises ArgumentTypeError."""
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdecimal() or int(port) > _LAST_PORT or (":" in bare and bare == host):
        raise argparse.ArgumentTypeError("it is host:port, such as 0.0.0.0:8443 or [::]:8443")
    return bare, int(port)


def own_namespace(environment: Mapping[str, str]) -> str:
    """Return the namespace that the operator runs in."""
    if name := environment.get("POD_NAMESPACE"):
        return name
    try:
        return _POD_NAMESPACE.read_text().strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE


def from_process(arguments: Sequence[str]) -> Config:
    """Read the command line and environment of this process."""
    return from_arguments(arguments, os.environ)
