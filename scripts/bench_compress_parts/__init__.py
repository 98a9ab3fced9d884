"""Parts of the benchmark of compressors."""
