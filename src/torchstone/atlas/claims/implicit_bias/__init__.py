"""Claims: implicit bias."""
