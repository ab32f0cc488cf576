"""Claims: signal propagation, initialisation and normalisation."""
