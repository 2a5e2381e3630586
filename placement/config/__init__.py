"""cluster.yaml: its schema, and `load`, the only way from its text to a `Lab`."""

from placement.config.load import load
from placement.config.problems import ConfigError, Problem
from placement.config.schema import Lab

__all__ = ["ConfigError", "Lab", "Problem", "load"]
