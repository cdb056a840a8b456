"""`kubectl sid ...`: what people ask of the operator beyond `kubectl get`. It works with the user's own rights."""
