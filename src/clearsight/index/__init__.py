"""Collections of items with their vectors, repaired without labels, and search in them."""
