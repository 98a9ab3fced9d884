"""All projectors and their originals."""

from bench_projectors_parts.convolutional import CONVOLUTIONAL
from bench_projectors_parts.discrete import DISCRETE
from bench_projectors_parts.latents import LATENTS
from bench_projectors_parts.pooled import POOLED
from bench_projectors_parts.qformers import QFORMERS
from bench_projectors_parts.windowed import WINDOWED
from vidcomp.registry import PROJECTORS

__all__ = ["CASES", "without_case"]

CASES = POOLED | CONVOLUTIONAL | LATENTS | QFORMERS | DISCRETE | WINDOWED


def without_case() -> list[str]:
    """Registered projectors that nobody has written the original of."""
    return [name for name in PROJECTORS.names() if name not in CASES]
