"""A live session: the same prompt under several strategies at once, in real time, on a local page."""
