"""Use cases over ports: gather what exists, plan, apply. No framework, no client library."""
