"""Pictures of what compression did."""

from vidcomp.report.groups import patch_tokens
from vidcomp.report.token_map import frame_of_row, pick_rows, token_map

__all__ = ["frame_of_row", "patch_tokens", "pick_rows", "token_map"]
