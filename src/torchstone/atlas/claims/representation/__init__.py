"""Claims: representation and losses."""
