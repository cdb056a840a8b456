"""The adapter for HashiCorp Vault and OpenBao: settings <- connection <- session <- one module for each engine used."""
