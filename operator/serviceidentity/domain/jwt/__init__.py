"""JSON Web Tokens (RFC 7519): signing keys that rotate, their JWK Sets (RFC 7517), and tokens."""
