"""Compressors that prune."""
