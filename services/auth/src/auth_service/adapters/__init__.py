"""PostgreSQL and mounted files."""
