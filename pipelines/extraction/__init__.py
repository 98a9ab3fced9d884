"""``vidcomp extract``: what decodes, encodes, compresses and commits; its plans, records and ends."""
