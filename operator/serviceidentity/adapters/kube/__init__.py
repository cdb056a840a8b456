"""Kubernetes, through the official client's asynchronous half."""
