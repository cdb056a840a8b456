"""Token keys of trust domains, and the JWK Sets that are served: use cases."""
