"""What a service does with its identity. Import the part you need: `serviceidentity_sdk.mtls`, and so on."""
