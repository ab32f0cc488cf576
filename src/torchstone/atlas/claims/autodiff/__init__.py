"""Claims: automatic differentiation."""
