"""Language-model engines and stored replies."""
