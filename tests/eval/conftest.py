"""The command line's fixtures, for the commands of the evaluation."""

from tests.cli.conftest import data, memroute, predictions

__all__ = ["data", "memroute", "predictions"]
