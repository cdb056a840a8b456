"""The shop as it runs on one machine: `make demo-shop`."""
