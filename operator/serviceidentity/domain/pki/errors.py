"""What the PKI module raises."""


class PkiError(ValueError):
    """A key, certificate or request that can't be used. The message is fixed text: it never quotes the input."""
