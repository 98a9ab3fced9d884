"""A function for every method with a recorded output: run ours, yield comparisons.

A new method is one function in a module here and one line in that module's ``CHECKS``.
"""

from parity_checks import (
    attention,
    change,
    cluster,
    convolutional,
    discrete,
    graphs,
    latents,
    linear,
    memory,
    merging,
    poolers,
    projectors,
    qformers,
    sampling,
    segments,
    state_space,
    windowed,
)
from parity_checks.golden import Check

__all__ = ["CHECKS"]

CHECKS: dict[str, Check] = {
    **projectors.CHECKS,
    **qformers.CHECKS,
    **attention.CHECKS,
    **graphs.CHECKS,
    **change.CHECKS,
    **cluster.CHECKS,
    **convolutional.CHECKS,
    **discrete.CHECKS,
    **latents.CHECKS,
    **linear.CHECKS,
    **memory.CHECKS,
    **merging.CHECKS,
    **poolers.CHECKS,
    **sampling.CHECKS,
    **segments.CHECKS,
    **state_space.CHECKS,
    **windowed.CHECKS,
}
