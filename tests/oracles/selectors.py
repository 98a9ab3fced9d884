"""Choices of patches by their pixels, cell by cell."""


def cell_change(frame, other, y, x, cell, scale):
    """Mean absolute difference of a cell's pixels, 0..1 times the scale of the channel."""
    total = 0.0
    for c in range(3):
        for i in range(y * cell, (y + 1) * cell):
            for j in range(x * cell, (x + 1) * cell):
                total += abs(int(frame[c, i, j]) - int(other[c, i, j])) / 255 * scale[c]
    return total / (3 * cell * cell)


def above_slowly(frames, cell, keeps, scale, *, reference="previous", tubelet=1, least=0):
    """[t][h][w] kept flags of a threshold, one step after the other.

    ``keeps(change)`` says whether a change is kept; the first ``least`` of a step are, too, if
    fewer would be.
    """
    height, width = frames.shape[2] // cell, frames.shape[3] // cell
    cells = [(y, x) for y in range(height) for x in range(width)]
    kept, last = [], {}
    for start in range(0, len(frames), tubelet):
        first, final = frames[start], frames[min(start + tubelet, len(frames)) - 1]
        step = {
            place: place not in last or keeps(cell_change(final, last[place], *place, cell, scale))
            for place in cells
        }
        if sum(step.values()) < least:
            step.update(dict.fromkeys(cells[:least], True))
        for place in cells:
            if reference == "previous" or step[place] or place not in last:
                last[place] = first
        kept.append([[step[y, x] for x in range(width)] for y in range(height)])
    return kept
