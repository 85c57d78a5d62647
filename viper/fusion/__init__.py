"""Fusion of per-modality tokens into predictions."""
