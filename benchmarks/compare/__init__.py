"""Runs side by side: one video with panes in step, what the metrics say under each, and a table."""
