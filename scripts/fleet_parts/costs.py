"""What one video costs, as measured: read from a file, never made up."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Costs", "DecodeCost", "fit_decode", "load_costs", "save_costs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCost:
    """CPU seconds of decoding and resizing the recipe's frames of one video.

    ``per_item_s + per_second_s * min(length, full_s)``: up to ``full_s`` every frame is decoded;
    in longer videos the reader seeks from one sampled frame's key frame to the next one's, and
    their number is fixed.
    """

    per_item_s: float
    per_second_s: float
    full_s: float

    def of(self, length_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds for videos of these lengths."""
        return self.per_item_s + self.per_second_s * np.minimum(length_s, self.full_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Measured on one machine, with one recipe; times are CPU seconds of one core."""

    recipe: str
    num_frames: int
    """Frames that the recipe samples of a video."""
    frame_bytes: int
    """Bytes of one of them after resizing, uint8."""
    decode: Mapping[int, DecodeCost]
    """By the height of the picture."""
    encode_per_frame_s: float
    """The recipe's own encoder on one core."""
    compress_s: float
    """One video's tokens to the budget."""
    overhead_s: float
    """Of the engine, for one video: threads, queues, shared memory."""
    write_s: float
    """Of the store, for one record."""
    commit_s: float
    """From the last record of a shard to the moment when readers see it."""
    child_start_s: float
    """From starting a decode process to its first frame."""
    meta_nbytes: int
    """Of the JSON in one record."""
    details: Mapping[str, Any]
    """Machine, clips, and the points behind each line."""


def fit_decode(points: Mapping[float, float]) -> DecodeCost:
    """The line through the short videos and where the long ones leave it.

    Args:
        points: seconds of decoding by seconds of length, at least three; the longest video is
            taken to be beyond ``full_s`` if it lies below the line.
    """
    lengths = sorted(points)
    short = lengths[:2]
    slope = (points[short[1]] - points[short[0]]) / (short[1] - short[0])
    slope = max(slope, 1e-9)
    base = max(0.0, points[short[0]] - slope * short[0])
    longest = points[lengths[-1]]
    full = (longest - base) / slope
    return DecodeCost(
        per_item_s=base, per_second_s=slope, full_s=float(np.clip(full, short[1], lengths[-1]))
    )


def load_costs(path: Path) -> Costs:
    """What ``save_costs`` wrote."""
    data = json.loads(path.read_text())
    decode = {int(height): DecodeCost(**cost) for height, cost in data.pop("decode").items()}
    return Costs(**data, decode=decode)


def save_costs(costs: Costs, path: Path) -> None:
    """As JSON that people can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(costs), indent=1) + "\n")
