"""Controls of a suite: what an answer looks like at its best and at its worst, and whether memory decides it at all."""
