"""Layers: what PyTorch does not have."""
