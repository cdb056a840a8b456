"""Logs users in: passwords in, short-lived signed tokens out."""
