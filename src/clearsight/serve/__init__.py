"""A page and an HTTP API over an index and a model."""
