"""The cost of a rollout: frames per second, and where a block's time goes."""
