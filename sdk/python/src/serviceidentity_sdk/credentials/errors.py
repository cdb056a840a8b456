"""What can be wrong with mounted files."""


class CredentialError(Exception):
    """Mounted files are missing, half written, or do not hold what they should.

    The message names files and reasons, never their content, so it may be logged and shown.
    """
