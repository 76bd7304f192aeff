"""Heartnet: DeepHeart in PyTorch, and the techniques that debug it."""
