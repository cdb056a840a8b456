"""Ways to log in to OpenBao: Kubernetes service accounts, JWTs, AppRole, TLS certificates."""

import json
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.controlplane.cluster import ControlPlane
from tests.controlplane.openbao import OpenBao

REVIEWER = "vault-reviewer"


def enable_kubernetes_auth(bao: OpenBao, plane: ControlPlane, mount: str = "kubernetes") -> None:
    """Let service accounts log in. The API server is asked about their tokens by an account made for that."""
    grant = ("--clusterrole=system:auth-delegator", f"--serviceaccount=default:{REVIEWER}")
    if plane.kubectl("get", "clusterrolebinding", REVIEWER, check=False).returncode:
        plane.kubectl("create", "serviceaccount", REVIEWER, "--namespace=default")
        plane.kubectl("create", "clusterrolebinding", REVIEWER, *grant)
    bao.request("POST", f"sys/auth/{mount}", {"type": "kubernetes"})
    bao.request(
        "POST",
        f"auth/{mount}/config",
        {
            "kubernetes_host": plane.url,
            "kubernetes_ca_cert": plane.ca_file.read_text(),
            "token_reviewer_jwt": plane.kubectl("create", "token", REVIEWER, "--namespace=default").stdout.strip(),
            "disable_local_ca_jwt": True,
        },
    )


def add_login_role(
    bao: OpenBao,
    name: str,
    *,
    namespaces: str = "*",
    service_accounts: str = "*",
    policies: str = "",
    token_ttl: str = "1h",
    audience: str = "",
    mount: str = "kubernetes",
    **options: Any,
) -> None:
    """Make or change a role that service accounts log in to; names may be patterns, a comma lies between several.

    Options are the engine's own, `token_max_ttl` for one. Without an audience any of the cluster's tokens will do.
    """
    role = {
        "bound_service_account_names": service_accounts,
        "bound_service_account_namespaces": namespaces,
        "token_policies": policies,
        "token_ttl": token_ttl,
        "audience": audience,
        **options,
    }
    bao.request("POST", f"auth/{mount}/role/{name}", role)


def enable_jwt_auth(bao: OpenBao, plane: ControlPlane, mount: str = "jwt") -> None:
    """Let tokens that the cluster signed log in, checked by its public keys: nobody asks the API server."""
    issuer = json.loads(plane.raw("/.well-known/openid-configuration"))["issuer"]
    keys = [_pem(key) for key in json.loads(plane.raw("/openid/v1/jwks"))["keys"]]
    bao.request("POST", f"sys/auth/{mount}", {"type": "jwt"})
    bao.request("POST", f"auth/{mount}/config", {"jwt_validation_pubkeys": keys, "bound_issuer": issuer})


def add_jwt_role(
    bao: OpenBao, name: str, *, subject: str, audience: str, policies: str = "", mount: str = "jwt", **options: Any
) -> None:
    """Make or change a role for one subject, such as `system:serviceaccount:<namespace>:<name>`."""
    role = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_subject": subject,
        "bound_audiences": [audience],
        "token_policies": policies,
        **options,
    }
    bao.request("POST", f"auth/{mount}/role/{name}", role)


def enable_approle(bao: OpenBao, mount: str = "approle") -> None:
    """Let those log in who have a role ID and a secret ID."""
    bao.request("POST", f"sys/auth/{mount}", {"type": "approle"})


def add_approle(
    bao: OpenBao, name: str, *, policies: str = "", mount: str = "approle", **options: Any
) -> tuple[str, str]:
    """Make or change a role; return its role ID and a new secret ID."""
    role = f"auth/{mount}/role/{name}"
    bao.request("POST", role, {"token_policies": policies, **options})
    role_id = bao.request("GET", f"{role}/role-id")["data"]["role_id"]
    secret_id = bao.request("POST", f"{role}/secret-id", {})["data"]["secret_id"]
    return str(role_id), str(secret_id)


def enable_certificate_auth(bao: OpenBao, mount: str = "cert") -> None:
    """Let client certificates log in. Only over TLS: the server must have been given a certificate of its own."""
    bao.request("POST", f"sys/auth/{mount}", {"type": "cert"})


def add_certificate_role(
    bao: OpenBao, name: str, ca_file: Path, *, policies: str = "", mount: str = "cert", **options: Any
) -> None:
    """Make or change a role for client certificates that a CA in `ca_file` signed."""
    role = {"certificate": ca_file.read_text(), "token_policies": policies, **options}
    bao.request("POST", f"auth/{mount}/certs/{name}", role)


def _pem(key: dict[str, str]) -> str:
    """Return a JSON Web Key (RFC 7517) of a cluster as PEM."""

    def number(field: str) -> int:
        text = key[field]
        return int.from_bytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)))

    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    if key["kty"] == "RSA":
        public = rsa.RSAPublicNumbers(number("e"), number("n")).public_key()
    else:
        public = ec.EllipticCurvePublicNumbers(number("x"), number("y"), ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
