"""``vidcomp evaluate``: questions of benchmarks asked at several budgets; plug-ins of other harnesses."""
