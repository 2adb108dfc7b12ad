"""Points rendered by Open3D without a window, in a process of their own.

Where there is neither a GPU nor Mesa's software Vulkan, Open3D's renderer does not raise an exception but ends the
process. So it runs in another one, `python -m pctransformer.visualization.offscreen IN.npz OUT.npz`, whose end is seen.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from open3d.visualization.rendering import OffscreenRenderer

TIMEOUT_S = 300.0
_FINER = 2  # pixels are the means of so many squared: edges become smooth
_CORNERS = 12  # of a dot large enough to be seen as round
_RIM, _RIM_SHADE = 0.86, 0.85  # where the rim begins, of the radius; how dark it is
_LEAST = 2.2  # pixels: width of the smallest dots
_RIM_FROM = 5.0  # pixels: smaller dots are squares without a rim


class NoRendererError(Exception):
    """Nothing can be rendered here; the message says why and how to mend it."""


def render(
    seen: np.ndarray,
    colors: np.ndarray,
    *,
    dot: float,
    half: float,
    pixels: int,
) -> np.ndarray:
    """Square pictures of one cloud in several colourings, white where nothing is; the same on every run.

    Args:
        seen: (N, 3) points as the camera sees them: to the right, up, towards us; it has no perspective.
        colors: (M, N, 3) in [0, 1] of each picture.
        dot: width of a dot, in the units of `seen`.
        half: half of the side of the square that is shown, round the origin.
        pixels: side of a picture.

    Returns:
        (M, pixels, pixels, 3) uint8.

    Raises:
        NoRendererError: Open3D is not installed, or cannot render here.
    """
    if importlib.util.find_spec("open3d") is None:
        raise NoRendererError("Open3D is not installed: pip install open3d")
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request.npz"), Path(folder, "answer.npz")
        np.savez(request, seen=seen, colors=colors, dot=dot, half=half, pixels=pixels)
        command = [sys.executable, "-m", "pctransformer.visualization.offscreen", str(request), str(answer)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise NoRendererError(f"Open3D's renderer did not answer within {TIMEOUT_S:.0f} s") from None
        if result.returncode != 0 or not answer.exists():
            last = (result.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise NoRendererError(
                f"Open3D cannot render here ({last[:200]}); it needs a GPU, or libvulkan1 and mesa-vulkan-drivers"
            )
        with np.load(answer, allow_pickle=False) as file:
            return file["pictures"]


# ---- in the other process --------------------------------------------------------------------------------------------
def _answer(request: str, answer: str) -> None:
    """Render what one file asks for into another one."""
    from open3d.visualization.rendering import Camera, OffscreenRenderer

    with np.load(request, allow_pickle=False) as file:
        asked = {name: file[name] for name in file.files}
    seen, half, pixels = asked["seen"], float(asked["half"]), int(asked["pixels"])
    side = _FINER * pixels
    renderer = OffscreenRenderer(side, side)
    renderer.scene.set_background([1.0, 1.0, 1.0, 1.0])
    renderer.scene.view.set_post_processing(False)  # else tone mapping changes colours
    depths = np.append(seen[:, 2], 0.0)
    near, far = depths.max() + half, depths.min() - half
    renderer.scene.camera.look_at([0.0, 0.0, 0.0], [0.0, 0.0, near], [0.0, 1.0, 0.0])
    renderer.scene.camera.set_projection(Camera.Projection.Ortho, -half, half, -half, half, 0.0, near - far)
    pictures = np.empty((len(asked["colors"]), pixels, pixels, 3), np.uint8)
    dot = max(float(asked["dot"]), 2 * half / pixels * _LEAST)  # or it is lost
    for picture, colors in zip(pictures, asked["colors"]):
        if len(seen):
            _add_dots(renderer, seen, colors, dot, has_rim=dot * pixels > 2 * half * _RIM_FROM)
        fine = np.asarray(renderer.render_to_image()).reshape(pixels, _FINER, pixels, _FINER, -1)
        picture[:] = np.rint(fine[..., :3].mean((1, 3)))
        renderer.scene.remove_geometry("dots")
    np.savez(answer, pictures=pictures)


def _add_dots(renderer: OffscreenRenderer, seen: np.ndarray, colors: np.ndarray, dot: float, *, has_rim: bool) -> None:
    """Dots as flat polygons that face the camera: Open3D's own points are squares."""
    import open3d
    from open3d.visualization.rendering import MaterialRecord

    angles = np.linspace(0, 2 * np.pi, _CORNERS if has_rim else 4, endpoint=False) + np.pi / 4
    outline = dot / 2 * np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], 1)  # (K, 3)
    corners = len(angles)
    fan = np.array([(0, i, i + 1) for i in range(1, corners - 1)])  # triangles of one polygon
    behind = np.array([0, 0, 0.02 * dot])
    layers = [(outline, colors)]
    if has_rim:
        layers = [(outline - behind, _RIM_SHADE * colors), (_RIM * outline, colors)]
    vertices = np.concatenate([(seen[:, None] + shape).reshape(-1, 3) for shape, _ in layers])
    triangles = (fan + corners * np.arange(len(layers) * len(seen))[:, None, None]).reshape(-1, 3)
    mesh = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(vertices), open3d.utility.Vector3iVector(triangles.astype(np.int32))
    )
    painted = np.concatenate([np.repeat(shade, corners, axis=0) for _, shade in layers])
    mesh.vertex_colors = open3d.utility.Vector3dVector(painted.astype(np.float64))
    material = MaterialRecord()
    material.shader = "defaultUnlit"
    renderer.scene.add_geometry("dots", mesh, material)


if __name__ == "__main__":
    _answer(*sys.argv[1:])
