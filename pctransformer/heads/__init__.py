"""Heads: from tokens or maps to predictions."""
