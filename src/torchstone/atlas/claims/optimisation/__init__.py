"""Claims: optimisation."""
