"""Forms of a certificate Secret besides PEM: DER, combined PEM, PKCS#12 and JKS."""

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.serialization import pkcs12

from serviceidentity.domain.material import MalformedError, SecretView
from serviceidentity.domain.model import CertificateSpec, OutputFormat
from serviceidentity.domain.pki import certificates, formats, jks
from serviceidentity.domain.pki.keys import PrivateKey

PASSWORD_KEY: Final = "keystore-password"  # noqa: S105  # the name of a data key
_KEYSTORES: Final = frozenset({OutputFormat.PKCS12, OutputFormat.JKS})

_DATA_KEYS: Final[Mapping[OutputFormat, tuple[str, ...]]] = {
    OutputFormat.DER: ("key.der",),
    OutputFormat.COMBINED_PEM: ("tls-combined.pem",),
    OutputFormat.PKCS12: ("keystore.p12", "truststore.p12"),
    OutputFormat.JKS: ("keystore.jks", "truststore.jks"),
}


def data_keys(wanted: Iterable[OutputFormat]) -> list[str]:
    """Return the data keys that the formats add to a Secret (cert-manager's names)."""
    return [key for output in sorted(wanted) for key in _DATA_KEYS[output]]


def needs_password(spec: CertificateSpec) -> bool:
    """Say whether a keystore is asked for."""
    return bool(_KEYSTORES & spec.output_formats)


def generated_password(view: SecretView) -> bytes | None:
    """Return the password that was generated for the Secret's keystores; None when there is none that can be used."""
    try:
        password = view.value(PASSWORD_KEY)
        password.decode()
    except (MalformedError, UnicodeDecodeError):
        return None
    return password or None


def plain_formats_agree(view: SecretView, key: PrivateKey) -> bool:
    """Say whether DER and combined PEM, where they are, hold the Secret's own key and chain."""
    combined = formats.combined_pem(view.value("tls.key"), view.value("tls.crt"))
    wanted = {"key.der": formats.der_key(key), "tls-combined.pem": combined}
    return all(view.value(name) == content for name, content in wanted.items() if name in view.data)


def keystores_open(view: SecretView) -> bool:
    """Say whether every keystore in the Secret opens with the generated password beside it."""
    password = generated_password(view)
    if password is None:
        return False
    try:
        for name in view.data:
            if name.endswith(".p12"):
                pkcs12.load_pkcs12(view.value(name), password)
            elif name.endswith(".jks") and not jks.opens(view.value(name), password.decode()):
                return False
    except (MalformedError, ValueError):
        return False
    return True


def encode_formats(
    alias: str, spec: CertificateSpec, pem: Mapping[str, bytes], key: PrivateKey, password: bytes | None, now: datetime
) -> dict[str, bytes]:
    """Return the extra data of a Secret that holds `pem` (tls.crt, tls.key, ca.crt).

    Without a password of the user's a random one is made, and put beside the keystores.
    """
    data: dict[str, bytes] = {}
    chain, roots = certificates.load_chain(pem["tls.crt"]), certificates.load_chain(pem["ca.crt"])
    if needs_password(spec):
        password = password or secrets.token_urlsafe(24).encode()
        if spec.keystore_password is None:
            data[PASSWORD_KEY] = password
    password = password or b""
    for output in spec.output_formats:
        match output:
            case OutputFormat.DER:
                data["key.der"] = formats.der_key(key)
            case OutputFormat.COMBINED_PEM:
                data["tls-combined.pem"] = formats.combined_pem(pem["tls.key"], pem["tls.crt"])
            case OutputFormat.PKCS12:
                data["keystore.p12"] = formats.pkcs12_keystore(alias, key, chain[0], chain[1:], password)
                data["truststore.p12"] = formats.pkcs12_truststore(roots, password)
            case OutputFormat.JKS:
                text = password.decode()
                data["keystore.jks"] = jks.jks_keystore(alias, key, chain, text, now)
                data["truststore.jks"] = jks.jks_truststore(roots, text, now)
    return data
