"""An encoder that takes its time as a device would; actors import it by name."""

import time
from collections.abc import Sequence

from pydantic import Field

from vidcomp.encode.dct import Dct, DctEncoder
from vidcomp.registry import ENCODERS
from vidcomp.types import Frames, VideoTokens


@ENCODERS.add("waiting")
class WaitingDct(Dct):
    """The dct encoder on a device that needs ``frame_s`` for a frame, and no CPU."""

    frame_s: float = Field(0.004, ge=0)

    def build(self, **how: object) -> "WaitingEncoder":
        """The encoder."""
        return WaitingEncoder(self, **how)  # type: ignore[arg-type]


class WaitingEncoder(DctEncoder):
    """The real encoder's own time is part of the wait."""

    config: WaitingDct

    def many(self, batch: Sequence[Frames], *more: object) -> list[VideoTokens]:
        """Tokens, not before the device would have them."""
        until = time.perf_counter() + self.config.frame_s * sum(map(len, batch))
        tokens = super().many(batch, *more)  # type: ignore[arg-type]
        time.sleep(max(0.0, until - time.perf_counter()))
        return tokens
