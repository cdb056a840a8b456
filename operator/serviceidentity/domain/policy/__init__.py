"""Issuance policy: what a TrustDomain lets an identity have."""
