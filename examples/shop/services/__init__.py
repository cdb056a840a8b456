"""The services of the shop, on the SDK alone: no operator, no Kubernetes client."""
