"""Generated streets as a LiDAR on a car sees them, in KITTI's terms, for training a detector without a download.

`street_frames` makes frames in memory, `write_street` writes KITTI's folders. The parts: `layout` decides what stands
where, `vehicles`, `people` and `scenery` give things their shapes, `ground` what they stand on, `scene` puts them
before the scanner, `scanner` sends its pulses, `labels` says what KITTI's labels would say.
"""

from pctransformer.datasets.street.folder import write_street
from pctransformer.datasets.street.frames import street_frames

__all__ = ["street_frames", "write_street"]
