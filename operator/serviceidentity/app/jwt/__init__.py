"""Signing keys of tokens and their public sets: use cases."""
