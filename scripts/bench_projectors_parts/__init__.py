"""Every projector against its original's arithmetic, written as its authors wrote it."""
