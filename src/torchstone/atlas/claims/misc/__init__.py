"""Claims on further topics."""
