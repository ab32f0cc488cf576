"""Initialisers, and what theory says of them."""
