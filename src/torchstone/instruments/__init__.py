"""Instruments: each answers one question about a network. The folders are the catalogue (`catalogue.py`)."""
