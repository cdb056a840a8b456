"""`kubectl sid verify` with files: what it says, its exit code, and what it never prints."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serviceidentity.cli import main as command_line
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.pki import certificates, crl
from serviceidentity.domain.pki.crl import RevocationList, RevokedCertificate
from serviceidentity.domain.requests.signing import sign
from tests.unit.jwt.tokens import key, public, signed
from tests.unit.pki.builders import DAY, SPIFFE_ID, T0, hierarchy, leaf
from tests.unit.requests.test_signing import KEY, KEYRING, MS, NOW

CLAIMS = {
    "iss": "https://i",
    "sub": "shop/a",
    "aud": "b",
    "exp": int(NOW.timestamp()) + 60,
    "permissions": ["x\x1b[2J\u202e"],
}
AT = ("--at", "2026-11-25T16:00:00Z")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a command in a directory with files, and perhaps standard input; return exit code and what was printed."""

    def go(*arguments: str, stdin: bytes = b"", **files: bytes | str) -> tuple[int, str]:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            command_line.main(["verify", *arguments])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        assert all(line.isprintable() and line.isascii() for line in (shown.out + shown.err).splitlines())
        return int(end.value.code or 0), shown.out + shown.err

    return go


def jwks(*algorithms: Algorithm) -> str:
    return json.dumps({"keys": [public(one) for one in algorithms or Algorithm]})


def test_a_good_token_is_shown_without_its_signature(run):
    token = signed(CLAIMS)
    for given in ({"stdin": token.encode()}, {"stdin": f"Bearer {token}\n".encode()}):
        code, shown = run(
            "token", "--jwks", "jwks", "--audience", "b", "--issuer", "https://i", *AT, jwks=jwks(), **given
        )
        assert code == 0
        assert shown.startswith("accepted\n")
        for text in ("shop/a", "https://i", key(Algorithm.ES256)[0], "ES256", "2026-11-25T16:01:00Z"):
            assert text in shown
        assert "note:" not in shown
        assert not [part for part in token.split(".") if part in shown]


def test_a_refused_token_gives_every_reason_in_order(run):
    token = signed(CLAIMS)
    more = ("--audience", "c", "--issuer", "https://j")
    code, shown = run("token", "t", "--jwks", "jwks", *more, "--at", "2026-11-25T17:00:00Z", jwks=jwks(), t=token)
    assert code == 1
    assert [line.split(":")[1].strip() for line in shown.splitlines()[:3]] == [
        "WrongIssuer",
        "WrongAudience",
        "Expired",
    ]
    assert "nothing is proven" in shown
    assert token.split(".")[2] not in shown
    code, shown = run("token", "t", "--jwks", "jwks", "-o", "json", *more, *AT, jwks=jwks(Algorithm.RS256), t=token)
    found = json.loads(shown)
    assert (code, found["accepted"]) == (1, False)
    assert [one["reason"] for one in found["reasons"]] == ["UnknownKey", "WrongIssuer", "WrongAudience"]
    assert found["unproven"]["claims"]["sub"] == "shop/a"


def test_what_an_accepted_token_says_does_not_drive_the_terminal(run):
    token = signed(CLAIMS | {"sub": "\x1b[2Jä"})
    code, shown = run("token", "--jwks", "jwks", *AT, jwks=jwks(), stdin=token.encode())
    assert (code, "\\x1b[2J" in shown) == (0, True)


def test_what_was_not_checked_is_said(run):
    code, shown = run("token", "--jwks", "jwks", "-o", "json", *AT, jwks=jwks(), stdin=signed(CLAIMS).encode())
    assert code == 0
    assert len(json.loads(shown)["notes"]) == 2
    code, shown = run("token", "--jwks", "jwks", *AT, jwks='{"keys": [{"kty": "oct", "k": "AQ"}]}', stdin=b"x")
    assert code == 1
    assert "Malformed" in shown
    assert "is not used" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("token", "--jwks", "nowhere"), "nowhere: No such file"),
        (("token", "--jwks", "bad"), "what to trust can't be read"),
        (("token",), "no usable kubeconfig"),
        (("certificate", "--ca", "bad"), "what to trust can't be read"),
        (("certificate", "--crl", "bad"), "--crl needs --ca"),
        (("request", "--keyring", "bad", "--header", "a: b"), "what to trust can't be read"),
        (("request", "--keyring", "bad", "--body", "bad"), "--body needs --header"),
        (("request",), "required"),
        (("request", "--keyring", "bad", "--header", "no header"), "a header is not"),
        (("token", "--at", "yesterday"), "no time such as"),
        (("token", "--leeway", "-1s"), "expected one argument"),
        (("token", "--jwks", "bad", "--identity", "a"), "not allowed with"),
        (("token", "."), "Is a directory"),
    ],
)
def test_what_can_not_be_found_out_is_exit_code_2(run, arguments, said):
    more = ("--jwks", "good") if arguments == ("token", ".") else ()
    code, shown = run(*arguments, *more, bad="x", good=jwks())
    assert code == 2
    assert said in shown


def test_a_token_in_the_place_of_a_file_is_not_repeated(run):
    token = signed(CLAIMS)
    code, shown = run("token", token, "--jwks", "jwks", jwks=jwks())
    assert code == 2
    assert token.split(".")[1] not in shown


def test_a_certificate_says_who_and_until_when(run):
    trust, service = hierarchy(), leaf()
    chain, roots = (
        certificates.encode_chain(service, *trust.intermediate.chain),
        certificates.encode_chain(trust.root.certificate),
    )
    at = ("--at", "2026-01-01T12:00:00Z")
    code, shown = run("certificate", "c", "--ca", "ca", *at, c=chain, ca=roots)
    assert code == 0
    for text in (
        SPIFFE_ID,
        certificates.serial_number(service),
        "example root",
        "whether it was revoked was not checked",
    ):
        assert text in shown
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    entry = RevokedCertificate(certificates.serial_number(service), T0, "keyCompromise")
    lists = [
        crl.issue(issuer, RevocationList(1, T0, now + DAY, (entry,))) for issuer in (trust.root, trust.intermediate)
    ]
    code, shown = run("certificate", "--ca", "ca", "--crl", "crl", *at, ca=roots, crl=b"".join(lists), stdin=chain)
    assert code == 1
    assert shown.startswith("refused: Revoked: ")
    code, shown = run("certificate", "-o", "json", "--ca", "ca", ca=roots, stdin=b"x")
    assert (code, json.loads(shown)["reasons"][0]["reason"]) == (1, "Malformed")


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_request_as_text(run, end):
    headers = sign("order-service", KEY, {"amount": 1}, MS)
    lines = ["POST /orders HTTP/1.1", "Host: payments", *(f"{name}: {value}" for name, value in headers.items())]
    text = end.join([*lines, "", '{"amount": 1.0}', ""])
    code, shown = run("request", "--keyring", "ring", *AT, ring=KEYRING, stdin=text.encode())
    assert code == 0
    for part in ("order-service", "shop/order-service", "2026-11-25T16:05:00Z"):
        assert part in shown
    assert headers["X-Signature"] not in shown
    assert KEY.hex() not in shown
    late = (NOW + timedelta(minutes=6)).isoformat()
    code, shown = run("request", "r", "--keyring", "ring", "--at", late, ring=KEYRING, r=text.replace("1.0", "2"))
    assert code == 1
    assert [line.split(":")[1].strip() for line in shown.splitlines()[:2]] == ["Expired", "BadSignature"]


def test_a_request_as_headers_and_body(run):
    headers = [f"{name}: {value}" for name, value in sign("order-service", KEY, {"a": "\r\n\r\n"}, MS).items()]
    given = [word for header in headers for word in ("--header", header)]
    code, _ = run(
        "request", "--keyring", "ring", "--body", "b", *given, *AT, ring=KEYRING, b=json.dumps({"a": "\r\n\r\n"})
    )
    assert code == 0
    code, shown = run("request", "--keyring", "ring", *given, *AT, ring=KEYRING)
    assert (code, shown.splitlines()[0].split(":")[1].strip()) == (1, "BadSignature")
