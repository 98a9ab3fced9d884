"""What the bytes of a store mean: docs/cache-format.md in code; nothing here opens a file."""
