"""Pictures: of clouds, of training, of what a classifier gets right and wrong, and of detections.

Figures are matplotlib's `Figure`, made without pyplot: they need no display and leave no state behind.
`figure.savefig("errors.png", dpi=150)` writes one; a notebook shows one that stands in a cell's last line.
"""
