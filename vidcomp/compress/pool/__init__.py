"""Compressors that pool."""
