"""Transformers for point clouds."""
