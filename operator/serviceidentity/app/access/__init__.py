"""AccessPolicies: known, joined for each service, signed, delivered, and reported."""
