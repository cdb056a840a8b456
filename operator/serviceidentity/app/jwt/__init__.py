"""The token keys of trust domains: kept, rotated, published, and handed to whoever mints tokens."""
