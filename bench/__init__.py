"""Benchmarks: ratios measured in one run, medians of repeated runs. `make bench` runs them all."""
