"""`kubectl sid verify`: who a token, a certificate or a signed request is of, and every reason why it is refused.

A token and a signature are credentials: they are read from a file or standard input, and never printed.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from serviceidentity.adapters.kube.client import KubeClient
from serviceidentity.cli.commands import UsageError
from serviceidentity.cli.trust import Cluster
from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.jose import SignatureError
from serviceidentity.domain.jwt.verification import Accepted, read_jwks, verify_token
from serviceidentity.domain.material import MalformedError
from serviceidentity.domain.pki.certificates import facts, load_chain
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.verification import AcceptedCertificate, load_lists, verify_certificate
from serviceidentity.domain.requests.signing import AcceptedRequest, read_keyring, verify_request
from serviceidentity.domain.schedule import format_time, parse_duration, parse_time
from serviceidentity.domain.verdict import Problem

LARGEST_INPUT: Final = 8 << 20
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")  # RFC 9110 5.1, 5.5
_EMPTY_LINE: Final = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE: Final = re.compile(r"[A-Z]+ \S+ HTTP/[0-9.]+")

Connect = Callable[[], AbstractAsyncContextManager[tuple[KubeClient, str]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came out: what is shown of it, and when it is refused why. `notes` is what was not checked."""

    shown: dict[str, Any]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether it is."""
        return not self.problems


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser,
                 name: Callable[[str], str], operator_namespace: str) -> None:  # fmt: skip
    """Add the commands to the command line's grammar."""
    text = "who a token, certificate or signed request is of, and why it would be refused"
    kinds = verbs.add_parser("verify", help=text, description=text, parents=[common]).add_subparsers(
        dest="kind", required=True, metavar="kind"
    )
    every = argparse.ArgumentParser(add_help=False, parents=[common])
    every.add_argument("--at", type=_time, metavar="TIME", help="as if it were then (RFC 3339); default: now")
    every.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json is for programs")
    trust = argparse.ArgumentParser(add_help=False)
    trust.add_argument(
        "--trust-domain", type=name, default="default", metavar="NAME", help="the TrustDomain; default: default"
    )

    text = "a JSON Web Token; exit code 0 accepted, 1 refused, 2 could not be found out"
    token = kinds.add_parser("token", help=text, description=text, parents=[every, trust])
    token.add_argument("file", nargs="?", default="-", metavar="FILE", help="with the token; default: standard input")
    keys = token.add_mutually_exclusive_group()
    keys.add_argument("--jwks", type=Path, metavar="FILE", help="the issuer's JWK Set; default: ask the cluster")
    keys.add_argument("--identity", metavar="[NAMESPACE/]NAME", help="signed with the own key of this ServiceIdentity")
    token.add_argument("--audience", help="whom it has to be for; default: not checked")
    token.add_argument("--issuer", help="who has to have issued it; default: the trust domain's issuer")
    token.add_argument("--leeway", type=_duration, default=timedelta(0), help="how far clocks may be apart: 30s")
    token.add_argument("--max-ttl", type=_duration, help="refuse what is valid for longer; default: not checked")
    token.add_argument("--operator-namespace", type=name, default=operator_namespace, help="where the operator runs")

    text = "a certificate in PEM with its intermediates, as in tls.crt; exit codes as for a token"
    certificate = kinds.add_parser("certificate", help=text, description=text, parents=[every, trust])
    certificate.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: standard input")
    certificate.add_argument("--ca", type=Path, metavar="FILE", help="the roots in PEM; default: the trust bundle's")
    certificate.add_argument("--crl", type=Path, metavar="FILE", help="revocation lists in PEM; goes with --ca")

    text = "a signed HTTP request, as text or as headers and body; exit codes as for a token"
    request = kinds.add_parser("request", help=text, description=text, parents=[every])
    request.add_argument("file", nargs="?", default="-", metavar="FILE", help="the request; default: standard input")
    request.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="instead of FILE")
    request.add_argument("--body", type=Path, metavar="FILE", help="goes with --header; default: no body")
    way = request.add_mutually_exclusive_group(required=True)
    way.add_argument("--verifier", type=name, metavar="NAME", help="who gets the request: a ServiceIdentity")
    way.add_argument("--keyring", type=Path, metavar="FILE", help="keyring.json of who gets the request")


async def run(arguments: argparse.Namespace, connect: Connect) -> tuple[str, bool]:
    """Verify; return what to print, and whether it is accepted. Raises UsageError and PortError."""
    now = arguments.at or datetime.now(UTC)
    try:
        match arguments.kind:
            case "token":
                answer = await _token(arguments, connect, now)
            case "certificate":
                answer = await _certificate(arguments, connect, now)
            case _:
                answer = await _request(arguments, connect, now)
    except (MalformedError, PkiError) as error:
        raise UsageError(f"what to trust can't be read: {error}") from None
    return (_as_json(answer) if arguments.output == "json" else _as_text(answer)), answer.accepted


async def _token(arguments: argparse.Namespace, connect: Connect, now: datetime) -> Answer:
    text = _read(arguments.file).decode(errors="replace").strip().removeprefix("Bearer ").strip()
    issuer: str | None = arguments.issuer
    if arguments.jwks:
        keys, where = read_jwks(_read(arguments.jwks)), str(arguments.jwks)
    else:
        async with connect() as (client, namespace):
            cluster = Cluster(client, namespace)
            if arguments.identity:
                published = await cluster.identity_keys(arguments.identity)
            else:
                published = await cluster.token_keys(arguments.trust_domain, arguments.operator_namespace)
        keys, where = read_jwks(published.jwks), published.where
        issuer = issuer or published.issuer
    found = verify_token(
        text,
        keys,
        issuer=issuer,
        audience=arguments.audience,
        now=now,
        leeway=arguments.leeway,
        longest_lifetime=arguments.max_ttl,
    )
    notes = [f"a key of {where} is not used: {reason}" for reason in keys.ignored]
    notes += [] if arguments.audience else ["whom it is for was not checked: --audience"]
    notes += [] if issuer else ["who issued it was not checked: --issuer"]
    if isinstance(found, Accepted):
        return Answer(_shown(found) | {"keysFrom": where}, (), tuple(notes))
    return Answer(_claimed(text) | {"keysFrom": where}, found.problems, tuple(notes))


def _shown(found: Accepted) -> dict[str, Any]:
    return {
        "identity": found.subject,
        "issuer": found.issuer,
        "audiences": list(found.audiences),
        "issuedAt": _time_or_none(found.issued_at),
        "notBefore": _time_or_none(found.not_before),
        "notAfter": format_time(found.expires),
        "key": {"keyID": found.key_id, "algorithm": found.algorithm.value},
        "claims": found.claims,
    }


def _claimed(text: str) -> dict[str, Any]:
    """What a refused token says of itself."""
    try:
        header, claims = jose.unverified(text)
    except SignatureError:
        return {}
    return {"key": {"keyID": header.get("kid"), "algorithm": header["alg"]}, "claims": claims}


async def _certificate(arguments: argparse.Namespace, connect: Connect, now: datetime) -> Answer:
    text = _read(arguments.file)
    if arguments.crl and not arguments.ca:
        raise UsageError("--crl needs --ca")
    domain: str | None = None
    if arguments.ca:
        roots, where = _read(arguments.ca), str(arguments.ca)
        lists = _read(arguments.crl) if arguments.crl else None
    else:
        async with connect() as (client, namespace):
            bundle = await Cluster(client, namespace).trust_bundle(arguments.trust_domain)
        roots, lists, domain, where = bundle.roots, bundle.lists, bundle.spiffe_domain, bundle.where
    trusted = load_chain(roots)
    known = load_lists(lists) if lists else ()
    notes = () if known else ("whether it was revoked was not checked: there is no revocation list",)
    try:
        chain = load_chain(text)
    except PkiError as error:
        return Answer({"rootsFrom": where}, (Problem("Malformed", str(error)),), notes)
    found = verify_certificate(chain, trusted, known, now, trust_domain=domain)
    if isinstance(found, AcceptedCertificate):
        names = {"issuer": chain[0].issuer.rfc4514_string(), "root": found.path[-1].subject.rfc4514_string()}
        return Answer(_facts(chain[0]) | names | {"rootsFrom": where}, (), (*notes, *found.remarks))
    return Answer(_facts(chain[0]) | {"rootsFrom": where}, found.problems, notes)


def _facts(certificate: Any) -> dict[str, Any]:
    try:
        found = facts(certificate)
    except PkiError:
        return {}
    return {
        "identity": found.spiffe_id,
        "commonName": found.common_name,
        "dnsNames": list(found.dns_names),
        "notBefore": format_time(found.not_before),
        "notAfter": format_time(found.not_after),
        "serialNumber": found.serial_number,
        "fingerprint": found.fingerprint,
        "key": {"keyID": found.subject_key_id, "algorithm": f"{found.key.algorithm} {found.key.size or ''}".strip()},
    }


async def _request(arguments: argparse.Namespace, connect: Connect, now: datetime) -> Answer:
    if arguments.body and not arguments.header:
        raise UsageError("--body needs --header")
    if arguments.header:
        headers, body = _headers(arguments.header), _read(arguments.body) if arguments.body else b""
    else:
        headers, body = parse_request(_read(arguments.file))
    if arguments.keyring:
        keyring, where = _read(arguments.keyring), str(arguments.keyring)
    else:
        async with connect() as (client, namespace):
            keyring, where = await Cluster(client, namespace).keyring(arguments.verifier)
    found = verify_request(headers, body, read_keyring(keyring), now)
    if isinstance(found, AcceptedRequest):
        caller = found.caller
        return Answer(
            {
                "identity": caller.service_id,
                "spiffeID": caller.spiffe_id,
                "serviceIdentity": f"{caller.namespace}/{caller.name}",
                "signedAt": format_time(found.signed_at),
                "notAfter": format_time(found.accepted_until),
                "key": {"keyID": found.key_id, "algorithm": "HMAC-SHA256"},
                "keysFrom": where,
            }
        )
    return Answer({"keysFrom": where}, found.problems)


def parse_request(text: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Take an HTTP/1.1 request apart: its headers and its body. Raises UsageError when it is none."""
    head, *rest = _EMPTY_LINE.split(text, maxsplit=1)
    lines = head.decode(errors="backslashreplace").splitlines()
    headers = lines[1:] if lines and _REQUEST_LINE.fullmatch(lines[0]) else lines
    return _headers(headers), rest[0] if rest else b""


def _headers(lines: list[str]) -> list[tuple[str, str]]:
    found = [_HEADER.fullmatch(line) for line in lines if line]
    if not all(found):
        raise UsageError("a header is not `Name: value`; an HTTP request has headers, an empty line, and its body")
    return [(match[1], match[2]) for match in found if match]


def _as_json(answer: Answer) -> str:
    body: dict[str, Any] = {"accepted": answer.accepted}
    if answer.problems:
        body["reasons"] = [{"reason": one.reason, "message": one.message} for one in answer.problems]
    body["found" if answer.accepted else "unproven"] = answer.shown
    return json.dumps(body | {"notes": list(answer.notes)}, indent=2)


def _as_text(answer: Answer) -> str:
    """Write for people. Nothing that a credential says reaches the terminal but as ASCII."""
    lines = ["accepted"] if answer.accepted else []
    for number, problem in enumerate(answer.problems):
        lines.append(f"{'refused' if number == 0 else 'also'}: {problem.reason}: {problem.message}")
    if answer.problems and answer.shown:
        lines += ["", "what it says of itself, of which nothing is proven:"]
    rows = {name: _value(value) for name, value in answer.shown.items() if value not in (None, [], "")}
    width = max(map(len, rows), default=0)
    lines += [f"  {name.ljust(width)}  {value}" for name, value in rows.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in answer.notes)])


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else ascii(value)
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, dict) and value.keys() == {"keyID", "algorithm"}:
        return f"{_value(value['keyID'] or 'without ID')} ({_value(value['algorithm'])})"
    return json.dumps(value)


def _read(path: str | Path) -> bytes:
    """Read a file, or standard input for "-". Raises UsageError."""
    try:
        if str(path) == "-":
            if sys.stdin.isatty():
                print("paste it, then Ctrl-D", file=sys.stderr)  # noqa: T201
            found = sys.stdin.buffer.read(LARGEST_INPUT + 1)
        else:
            with Path(path).open("rb") as file:
                found = file.read(LARGEST_INPUT + 1)
    except OSError as error:
        raise UsageError(f"{_shortened(path)}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{_shortened(path)}: not the name of a file") from None
    if len(found) > LARGEST_INPUT:
        raise UsageError(f"{_shortened(path)}: larger than {LARGEST_INPUT >> 20} MiB")
    return found


def _shortened(path: str | Path) -> str:
    """Return a file's name for a message. Who gives a token in its place does not find it in a log."""
    text = str(path)
    return "a file's name that looks like a token" if re.search(r"eyJ[\w-]*\.", text) else ascii(text)[1:-1]


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2026-11-25T16:00:00Z") from None


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None


def _time_or_none(instant: datetime | None) -> str | None:
    return format_time(instant) if instant is not None else None
