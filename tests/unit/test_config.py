from datetime import timedelta

import pytest

from serviceidentity.config import from_arguments


def ways(text: str) -> tuple[str, ...]:
    return from_arguments([f"--ca-key-encryption={text}"], {}).ca_key_encryption


def test_ca_keys_are_stored_in_plain_unless_it_is_said():
    assert from_arguments([], {}).ca_key_encryption == ("none",)
    given = {"SIO_CA_KEY_ENCRYPTION": "transit:team/transit/ca, file:/etc/keks"}
    assert from_arguments([], given).ca_key_encryption == ("transit:team/transit/ca", "file:/etc/keks")
    assert ways("none,file:/etc/keks") == ("none", "file:/etc/keks")


def test_nobody_may_use_the_connection_of_the_environment_unless_it_is_said():
    assert from_arguments([], {}).vault_allowed_namespaces == ()
    given = {"SIO_VAULT_ALLOWED_NAMESPACES": "team-*, shop,,shop"}
    assert from_arguments([], given).vault_allowed_namespaces == ("shop", "team-*")


@pytest.mark.parametrize(
    "text",
    [
        "", "all", "file:", "file:relative", "transit:", "transit:key", "transit:/key", "transit:mount/", "transit:a//b",
        "transit:a/../b", "file:/a,none", "none,none", "file:/a,file:/b", "transit:a/b,transit:a/b", "file:/a,",
    ],
)  # fmt: skip
def test_nonsense_ends_with_usage(text: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        ways(text)
    assert ended.value.code == 2
    assert "--ca-key-encryption" in capsys.readouterr().err


def test_keys_of_encrypted_values():
    config = from_arguments(
        [
            "--master-keys=secret:masters/old",
            "--master-key-namespaces=shop, billing",
            "--encryption-key-rotation=2160h",
        ],
        {},
    )
    assert config.master_keys == "secret:masters/old"
    assert config.master_key_namespaces == ("billing", "shop")
    assert config.rotate_encryption_key_every == timedelta(days=90)
    plain = from_arguments([], {})
    assert (plain.master_keys, plain.master_key_namespaces, plain.rotate_encryption_key_every) == (None, None, None)


@pytest.mark.parametrize(
    "arguments",
    ["--master-keys=env:X", "--master-keys=file:relative", "--master-keys=secret:UPPER", "--encryption-key-rotation=59m",
     "--encryption-key-rotation=1d"],
)  # fmt: skip
def test_nonsense_about_encrypted_values_is_refused(arguments):
    with pytest.raises(SystemExit):
        from_arguments([arguments], {})


def test_where_the_jwk_sets_are_served():
    assert from_arguments([], {}).jwks_url is None
    assert (
        from_arguments([], {"SIO_JWKS_URL": "https://tokens.example.org/a"}).jwks_url == "https://tokens.example.org/a"
    )
    for nonsense in ("http://example.org", "https://example.org/", "https://example.org/?x", "example.org"):
        with pytest.raises(SystemExit):
            from_arguments([f"--jwks-url={nonsense}"], {})


def test_nothing_is_served_unless_an_address_is_given():
    assert from_arguments([], {}).jwks_address is None
    assert from_arguments([], {}).jwks_secret == "serviceidentity-jwks-tls"
    config = from_arguments(["--jwks-secret=mine"], {"SIO_JWKS_ADDRESS": "0.0.0.0:8443"})
    assert (config.jwks_address, config.jwks_secret) == (("0.0.0.0", 8443), "mine")
    assert from_arguments(["--jwks-address=[::]:8443"], {}).jwks_address == ("::", 8443)


@pytest.mark.parametrize("text", ["8443", "host:", "host:port", "host:70000", "::1:8443", "host:-1"])
def test_what_is_no_address_ends_with_usage(text: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        from_arguments([f"--jwks-address={text}"], {})
    assert "--jwks-address" in capsys.readouterr().err
