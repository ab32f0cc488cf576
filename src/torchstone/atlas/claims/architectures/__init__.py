"""Claims: architectures."""
