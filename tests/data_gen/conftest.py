"""The command line's fixtures, for the commands on data."""

from tests.cli.conftest import data, memroute

__all__ = ["data", "memroute"]
