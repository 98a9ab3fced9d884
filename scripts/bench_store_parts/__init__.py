"""The parts of ``bench_store.py``; ``raw`` and ``synthetic`` need nothing but numpy and torch."""
