"""AccessPolicy: what callers of a service may do, as it is written, compiled, evaluated and signed."""
