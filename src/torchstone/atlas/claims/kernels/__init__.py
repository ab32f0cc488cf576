"""Claims: kernels and infinite width."""
