"""Looking after a store: checking, repairing, compacting, merging, removing."""
