"""Claims: risk and bounds."""
