"""Servers on localhost that speak the protocols of hosted services, with faults on demand."""
