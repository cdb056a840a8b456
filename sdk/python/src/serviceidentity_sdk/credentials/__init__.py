"""Mounted Secrets and ConfigMaps: read as one consistent whole, and read again when the kubelet swaps them."""

from serviceidentity_sdk.credentials.directory import Directory, Snapshot
from serviceidentity_sdk.credentials.errors import CredentialError
from serviceidentity_sdk.credentials.material import KeyMaterial
from serviceidentity_sdk.credentials.watch import State, Watch

__all__ = ["CredentialError", "Directory", "KeyMaterial", "Snapshot", "State", "Watch"]
