"""Secrets from Vault or OpenBao: what users ask for, what was read, and what becomes of it. Pure."""
