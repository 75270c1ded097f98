"""Frame-level attention maps: how much each frame looks at each other, and their picture (arXiv 2511.20649, supplement G)."""

from rollout.show.attention.map import ROLES, AttentionMap, Change, FrameMap, frame_shares, middle

__all__ = ["ROLES", "AttentionMap", "Change", "FrameMap", "frame_shares", "middle"]
