from dataclasses import dataclass
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as E
from cryptography.hazmat.primitives import hashes, serialization as s
from . import keys
from .errors import PkiError
import ipaddress
DEFAULT_USAGES=("digital signature","server auth","client auth")
@dataclass(frozen=True)
class Subject:
    common_name: str
    organizations: tuple=(); organizational_units: tuple=(); countries: tuple=(); provinces: tuple=(); localities: tuple=(); street_addresses: tuple=(); postal_codes: tuple=(); serial_number: str|None=None
    def name(self): return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME,self.common_name)])
@dataclass(frozen=True)
class SubjectAltNames:
    spiffe_id: str; dns_names: tuple=(); ip_addresses: tuple=(); uris: tuple=(); email_addresses: tuple=()
@dataclass(frozen=True)
class Validity:
    not_before: object; not_after: object
@dataclass(frozen=True)
class Issuer:
    certificate: x509.Certificate; private_key: object; chain: tuple
def load_issuer(c,k):
    try: c=x509.load_pem_x509_certificate(c)
    except Exception: raise PkiError("x") from None
    return Issuer(c,keys.load(k),(c,))
def encode_chain(*cs): return b"".join(c.public_bytes(s.Encoding.PEM) for c in cs)
def load_chain(pem):
    try: return tuple(x509.load_pem_x509_certificates(pem))
    except Exception: raise PkiError("x") from None
def _b(subj,iss,pub,v,ca,pl):
    return (x509.CertificateBuilder().subject_name(subj).issuer_name(iss).public_key(pub).serial_number(x509.random_serial_number()).not_valid_before(v.not_before).not_valid_after(v.not_after).add_extension(x509.BasicConstraints(ca,pl),True).add_extension(x509.SubjectKeyIdentifier.from_public_key(pub),False))
def _ku(ca): return x509.KeyUsage(not ca,False,False,False,False,ca,ca,False,False)
def issue_root(sub,key,v): return _b(sub.name(),sub.name(),key.public_key(),v,True,1).add_extension(_ku(True),True).sign(key,hashes.SHA256())
def aki(i): return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(i.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value)
def issue_intermediate(sub,pub,i,v): return _b(sub.name(),i.certificate.subject,pub,v,True,0).add_extension(_ku(True),True).add_extension(aki(i),False).sign(i.private_key,hashes.SHA256())
def issue_leaf(sub,n,us,pub,i,v):
    san=[x509.UniformResourceIdentifier(n.spiffe_id),*map(x509.DNSName,n.dns_names),*(x509.IPAddress(ipaddress.ip_address(a)) for a in n.ip_addresses)]
    return _b(sub.name(),i.certificate.subject,pub,v,False,None).add_extension(_ku(False),True).add_extension(aki(i),False).add_extension(x509.SubjectAlternativeName(san),False).add_extension(x509.ExtendedKeyUsage([E.SERVER_AUTH,E.CLIENT_AUTH]),False).sign(i.private_key,hashes.SHA256())
@dataclass(frozen=True)
class CertificateFacts:
    serial_number: str; fingerprint: str; spiffe_id: str; common_name: str; dns_names: tuple; not_before: object; not_after: object
def facts(c):
    try: san=c.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception: san=None
    return CertificateFacts(format(c.serial_number,"x"), c.fingerprint(hashes.SHA256()).hex(), san and san.get_values_for_type(x509.UniformResourceIdentifier)[0], c.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value, tuple(san.get_values_for_type(x509.DNSName)) if san else (), c.not_valid_before_utc, c.not_valid_after_utc)
def signed_by(c,i):
    try: c.verify_directly_issued_by(i); return True
    except Exception: return False
def key_matches(c,k): return c.public_key()==k.public_key()
