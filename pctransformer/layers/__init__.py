"""Pieces that both views use: attention and how to look at it, position codes, transformer layers."""
