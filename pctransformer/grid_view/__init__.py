"""Occupied cells of a grid as tokens: from points to cells, and to maps seen from above."""
