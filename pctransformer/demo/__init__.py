"""Shows that run on their own: no data, no GPU, no display, no network."""
