"""``vidcomp extract``: what decodes, encodes, compresses and commits; plans, records, ends."""
