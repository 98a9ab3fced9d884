"""Complete recipes, one file one run."""
