"""Signed requests between services: the headers X-Service-ID, X-Timestamp and X-Signature."""
