"""A Tinker server on this machine, with a tiny model, for tests and dry runs."""
