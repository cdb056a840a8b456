"""What holds without any server: passwords, refresh tokens, accounts."""
