"""X.509: keys, certificates of a three-tier hierarchy (RFC 5280), and the file formats they are handed out in."""
