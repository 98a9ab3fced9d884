"""Extraction on a Ray cluster: descriptors out, receipts in."""

from .runner import RayRunner

__all__ = ["RayRunner"]
