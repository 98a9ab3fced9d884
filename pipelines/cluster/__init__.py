"""Extraction on a Ray cluster: descriptors out, receipts in; see :class:`RayRunner`."""
