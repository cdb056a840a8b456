from dataclasses import dataclass
from enum import StrEnum
from cryptography.hazmat.primitives.asymmetric import ec, rsa, ed25519
from cryptography.hazmat.primitives import serialization as s
from .errors import PkiError
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
class KeyAlgorithm(StrEnum):
    ECDSA="ECDSA"; RSA="RSA"; ED25519="Ed25519"
class KeyEncoding(StrEnum):
    PKCS1="PKCS1"; PKCS8="PKCS8"
@dataclass(frozen=True)
class KeyProfile:
    algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA
    size: int = 256
def generate(p):
    if p.algorithm=="ECDSA": return ec.generate_private_key(ec.SECP256R1() if p.size==256 else ec.SECP384R1())
    if p.algorithm=="RSA": return rsa.generate_private_key(65537,p.size)
    return ed25519.Ed25519PrivateKey.generate()
def encode(k,e): return k.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8 if e=="PKCS8" else s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption())
def load(pem):
    try: return s.load_pem_private_key(pem,None)
    except Exception: raise PkiError("key") from None
def profile_of(k):
    if isinstance(k,(ec.EllipticCurvePrivateKey,ec.EllipticCurvePublicKey)): return KeyProfile(KeyAlgorithm.ECDSA,k.key_size)
    if isinstance(k,(rsa.RSAPrivateKey,rsa.RSAPublicKey)): return KeyProfile(KeyAlgorithm.RSA,k.key_size)
    return KeyProfile(KeyAlgorithm.ED25519,0)
