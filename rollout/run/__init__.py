"""One run on disk: what to roll out, its record, its files as they grow, its snapshots, and what goes on from them."""
