"""HTTPS: what the operator serves."""
