"""Mutual TLS out of mounted Secrets: contexts that follow a rotation, and who the peer is.

The edges are imported on their own, because each needs a package: `mtls.client` httpx, `mtls.server` uvicorn.
"""

from serviceidentity_sdk.mtls.contexts import ClientCertificate, LiveContext, client_context, server_context
from serviceidentity_sdk.mtls.identity import MutualTLS
from serviceidentity_sdk.mtls.material import Material, Revocation
from serviceidentity_sdk.mtls.middleware import MutualTLSMiddleware
from serviceidentity_sdk.mtls.peer import ANYONE, PeerIdentity, Peers

__all__ = [
    "ANYONE",
    "ClientCertificate",
    "LiveContext",
    "Material",
    "MutualTLS",
    "MutualTLSMiddleware",
    "PeerIdentity",
    "Peers",
    "Revocation",
    "client_context",
    "server_context",
]
