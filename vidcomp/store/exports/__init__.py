"""Records of a store as files for other programs."""
