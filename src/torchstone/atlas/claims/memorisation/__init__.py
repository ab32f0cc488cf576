"""Claims on memorisation and stability."""
