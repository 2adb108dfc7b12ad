"""A spinning LiDAR with 64 lasers: where its pulses go, and which come back, from where and how bright.

Lasers and reach are those of the Velodyne HDL-64E on KITTI's car.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from pctransformer.datasets.street.scene import Scene

COLUMNS = 2154
"""Pulses of each laser in one turn. In KITTI's files the azimuth grows by 0.179 degrees six times, then by half of
that, which makes 2145 to 2157 points of a laser whose pulses all come back."""
MAX_RANGE = 80.0
"""Metres; KITTI's files end there."""
CAMERA_HALF_ANGLE = np.deg2rad(42.0)
"""What KITTI's camera sees lies within this azimuth to either side."""
_ELEVATION_DEG = np.array([
    1.937, 1.574, 1.305, 0.872, 0.579, 0.181, -0.089, -0.452, -0.803, -1.201, -1.494, -1.833, -2.208, -2.547, -2.874,
    -3.236, -3.539, -3.936, -4.216, -4.588, -4.914, -5.251, -5.611, -5.958, -6.329, -6.676, -6.999, -7.287, -7.679,
    -8.058, -8.310, -8.711, -9.026, -9.574, -10.063, -10.471, -10.957, -11.599, -12.115, -12.562, -13.041, -13.485,
    -14.048, -14.598, -15.189, -15.657, -16.176, -16.554, -17.187, -17.730, -18.323, -18.797, -19.320, -19.736,
    -20.223, -20.788, -21.318, -21.936, -22.438, -22.857, -23.322, -23.971, -24.507, -24.999,
])  # fmt: skip
_START_HEIGHT = np.concatenate([np.linspace(0.209, 0.198, 32), np.linspace(0.126, 0.116, 32)])
"""Two blocks of lasers, which start above the origin: line fits of height over range through all pulses of each laser,
33 frames of KITTI, where both tables come from to three decimals."""
_RANGE_NOISE = 0.02
_INTENSITY_NOISE = 0.035
_REACH = 60.0
"""Metres at which half of the pulses come back from a surface of reflectance 0.1 met head-on; Velodyne's data sheet
promises 50, in sunlight."""
_LEAST = 0.15
"""Reflectance that a darker surface counts as: KITTI's cars of intensity 0 are still seen at 60 metres."""


class Returns(NamedTuple):
    """Pulses that came back.

    Attributes:
        points: (n, 4) float32 x, y, z, intensity in [0, 1] in steps of a hundredth.
        owner: (n,) the thing that each is on, -1 for the ground.
    """

    points: np.ndarray
    owner: np.ndarray


def sweep_rays(phase: np.ndarray) -> np.ndarray:
    """(64 * 2154, 6) float32 origins and directions of all pulses: laser by laser from the top, counter-clockwise.

    Args:
        phase: (64,) of each laser, in [0, 1) of a step.
    """
    steps = np.where(np.arange(COLUMNS) % 7 == 6, 0.5, 1.0)
    azimuth = (np.cumsum(steps) - 1 + phase[:, None]) * (2 * np.pi / steps.sum())
    elevation = np.deg2rad(_ELEVATION_DEG)[:, None]
    rays = np.zeros((len(_ELEVATION_DEG), COLUMNS, 6), np.float32)
    rays[..., 2] = _START_HEIGHT[:, None]
    rays[..., 3] = np.cos(elevation) * np.cos(azimuth)
    rays[..., 4] = np.cos(elevation) * np.sin(azimuth)
    rays[..., 5] = np.sin(elevation)
    return rays.reshape(-1, 6)


def scan(scene: Scene, generator: torch.Generator, *, camera_view: bool) -> Returns:
    """One turn of the scanner.

    A pulse comes back if its surface does not swallow it, and with a probability that falls with distance, the sooner
    the darker the surface and the more grazing the incidence. Its range has noise of two centimetres.

    Args:
        scene: all around the scanner, or at least what is in the camera's view.
        generator: of noise and losses.
        camera_view: only the pulses in front, where the camera's view is; they are those of the whole turn.
    """
    phase, lose, (range_noise, intensity_noise) = (
        torch.rand(len(_ELEVATION_DEG), generator=generator).numpy(),
        torch.rand(len(_ELEVATION_DEG) * COLUMNS, generator=generator).numpy(),
        torch.randn(2, len(_ELEVATION_DEG) * COLUMNS, generator=generator).numpy(),
    )
    rays = sweep_rays(phase)
    sent = np.arange(len(rays))
    if camera_view:
        sent = np.flatnonzero(rays[:, 3] * np.tan(CAMERA_HALF_ANGLE) >= np.abs(rays[:, 4]))
    distance, triangle, cosine = scene.cast(rays[sent])
    hit = np.flatnonzero(distance < MAX_RANGE)
    sent, distance, triangle, cosine = sent[hit], distance[hit], triangle[hit], cosine[hit]
    reflectance, gloss, lost = scene.materials[scene.material[triangle]].T
    # power falls with the square of the distance; with the cosine it falls little, as surfaces are rough
    reach = _REACH * np.sqrt(np.maximum(reflectance, _LEAST) / 0.1) * np.maximum(cosine, 1e-3) ** 0.12
    chance = (1 - lost) * cosine ** (gloss / 14) / (1 + (distance / reach) ** 6)
    back = lose[sent] < chance
    sent, distance, triangle = sent[back], distance[back], triangle[back]
    rays = rays[sent]
    xyz = rays[:, :3] + rays[:, 3:] * (distance + _RANGE_NOISE * range_noise[sent])[:, None]
    intensity = (reflectance * cosine**gloss)[back] + _INTENSITY_NOISE * intensity_noise[sent]
    intensity = np.round(np.clip(intensity, 0, 1), 2)
    return Returns(np.column_stack([xyz, intensity]).astype(np.float32), scene.owner[triangle])
