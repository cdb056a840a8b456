"""Requests for leaf certificates that are signed elsewhere (PKCS#10, RFC 2986)."""

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from serviceidentity.domain.pki import keys
from serviceidentity.domain.pki.certificates import signature_hash
from serviceidentity.domain.pki.keys import PrivateKey
from serviceidentity.domain.pki.names import PlainNames, Subject, SubjectAltNames, extended_key_usage, key_usage


def leaf_request(
    subject: Subject, names: SubjectAltNames | PlainNames, usages: tuple[str, ...], key: PrivateKey
) -> bytes:
    """Return a request in PEM, which says everything that the certificate is to say but its dates. Raises PkiError."""
    name = subject.to_x509()
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(key_usage(usages, keys.profile_of(key)), critical=True)
    )
    if (alternative := names.to_x509()) is not None:
        builder = builder.add_extension(alternative, critical=not list(name))
    if (extended := extended_key_usage(usages)) is not None:
        builder = builder.add_extension(extended, critical=False)
    return builder.sign(key, signature_hash(key)).public_bytes(serialization.Encoding.PEM)
