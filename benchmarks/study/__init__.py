"""A blind study: people judge pairs of videos on a page that opens from disk, and their answers are scored here."""
