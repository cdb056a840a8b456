"""The webhook for our own kinds: answers the API server, and has it trust the certificate that is served."""
