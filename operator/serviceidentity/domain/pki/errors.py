class PkiError(ValueError):
    """PKI problem."""
