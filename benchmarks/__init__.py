"""The benchmark suite: which strategy is better, by how much, and is that real; and what each costs."""
