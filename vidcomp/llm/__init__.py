"""Compressed tokens into language models: one generic adapter and a table of families."""
