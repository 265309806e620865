"""Measure aicontent and its alternatives in one run. `python -m benchmarks` starts it."""
