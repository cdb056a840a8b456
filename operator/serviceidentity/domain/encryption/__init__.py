"""Encrypted values: their two forms, the keys of each, and what an identity's values decrypt to."""
