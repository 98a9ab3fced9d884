"""``vidcomp evaluate``: benchmarks asked at several budgets; plug-ins of other harnesses."""
