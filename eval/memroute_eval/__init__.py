"""Everything that compares agents: playing them, metrics, intervals, reports."""
