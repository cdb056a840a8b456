"""Service Identity Operator: certificates and keys for every service, rotated before anyone notices."""

__version__ = "0.1.0"
