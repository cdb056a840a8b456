"""Secrets from Vault or OpenBao: connections, reading, leases, and the records that no lease is lost from."""
