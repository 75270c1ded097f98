"""Benchmarks: what a strategy costs, measured with its baseline in the same run."""
