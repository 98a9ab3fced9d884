"""Droppers and scorers of linear cost, by plain loops from their descriptions."""

import torch


def pixel_change_slowly(frames, cell, *, threshold, tubelet, scale, reference):
    """[S, h, w] float64 mean absolute differences and bool: kept."""
    unit = 255 if frames.dtype == torch.uint8 else 1
    x = frames.double() / unit
    x = x * torch.tensor(scale or [1.0] * frames.shape[1], dtype=torch.float64)[:, None, None]
    steps = -(-len(x) // tubelet)
    h, w = x.shape[2] // cell[0], x.shape[3] // cell[1]
    change = torch.full((steps, h, w), torch.inf, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            part = x[:, :, i * cell[0] : (i + 1) * cell[0], j * cell[1] : (j + 1) * cell[1]]
            last = part[0]
            for s in range(1, steps):
                final = part[min(s * tubelet + tubelet - 1, len(x) - 1)]
                change[s, i, j] = (final - last).abs().mean()
                if reference == "previous" or change[s, i, j] > threshold:
                    last = part[s * tubelet]
    return change, change > threshold
