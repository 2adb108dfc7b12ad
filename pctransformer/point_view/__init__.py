"""The point view: points, and patches of points, as tokens."""
