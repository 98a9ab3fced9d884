"""Compressors that merge."""
