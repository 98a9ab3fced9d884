"""What docs/methods.md is made of."""
