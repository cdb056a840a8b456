"""What somebody makes for themselves who has no key of ours: a certificate by another CA, forged tokens."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwk

from examples.demo.mtls import Files


def files(common_name: str, spiffe_id: str) -> Files:
    """Return a certificate Secret's content for those names, from another CA."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = _name("Another Root CA")
    root = (
        _builder(root_name, root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        _builder(_name(common_name), root_name, key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return {
        "tls.crt": leaf.public_bytes(serialization.Encoding.PEM),
        "tls.key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        "ca.crt": root.public_bytes(serialization.Encoding.PEM),
    }


def unsigned(token: str) -> str:
    """Return a token with the same claims that says it needs no signature."""
    return f"{_header('none')}.{token.split('.')[1]}."


def confused(token: str, keys: bytes) -> str:
    """Return a token with the same claims and key ID, signed by HMAC with the public key in PEM, which everyone has."""
    (key,) = json.loads(keys)["keys"]
    given = f"{_header('HS256', kid=key['kid'])}.{token.split('.')[1]}"
    secret = jwk.ECKey.import_key(key).as_pem(private=False)
    return f"{given}.{_base64url(hmac.digest(secret, given.encode(), hashlib.sha256))}"


def _header(algorithm: str, **more: str) -> str:
    return _base64url(json.dumps({"alg": algorithm, "typ": "JWT", **more}).encode())


def _base64url(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
    )
