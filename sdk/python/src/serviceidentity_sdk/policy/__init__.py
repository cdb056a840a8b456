"""Access policies: what callers may do, by rules that the operator signed. What no rule allows is denied."""

from serviceidentity_sdk.policy.bundle import reader
from serviceidentity_sdk.policy.decisions import Decision, Policies
from serviceidentity_sdk.policy.engine import PolicyEngine

__all__ = ["Decision", "Policies", "PolicyEngine", "reader"]
