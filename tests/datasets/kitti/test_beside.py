"""What lies beside a file of points in KITTI's folders, and images."""

import struct
import zlib

import numpy as np
import pytest
from matplotlib.image import imsave

from pctransformer.datasets import FileFormatError
from pctransformer.datasets.kitti import camera_beside, image_beside, labels_beside, read_frame, read_image
from tests.datasets.kitti.files import BOXES, write_kitti
from tests.real_data import real_data


def test_what_lies_beside(tmp_path):
    training = write_kitti(tmp_path / "kitti") / "training"
    file = training / "velodyne" / "000001.bin"
    assert image_beside(file) is None
    assert camera_beside(file)[1] == (1242, 375)
    boxes, labels = labels_beside(file, ("Car", "Cyclist"))
    np.testing.assert_allclose(boxes, [box for _, box, _ in BOXES["000001"]], atol=0.02)  # files round to centimetres
    assert labels.tolist() == [1, -1]
    image = training / "image_2" / "000001.png"
    imsave(image, np.zeros((20, 30, 3)))
    assert image_beside(file) == image
    assert camera_beside(file)[1] == (30, 20)
    (training / "label_2" / "000001.txt").unlink()
    assert labels_beside(file, ("Car",)) is None
    # in a folder of another name a file called like that may be anything
    file = training / "velodyne" / "000000.bin"
    assert None not in (image_beside(file), camera_beside(file), labels_beside(file, ()))
    file.parent.rename(training / "points")
    elsewhere = training / "points" / "000000.bin"
    assert image_beside(elsewhere) is camera_beside(elsewhere) is labels_beside(elsewhere, ()) is None


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels))
    expected = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[..., :3]
    found = read_image(tmp_path / "a.png")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected / 255, atol=1e-6)


def test_broken_images(tmp_path):
    file = tmp_path / "a.png"
    whole = png(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    for broken in (whole[: len(whole) // 2], whole[:60] + b"?" * 40 + whole[100:]):
        file.write_bytes(broken)
        with pytest.raises(FileFormatError, match=r"a\.png: the image is broken"):
            read_image(file)
    file.write_bytes(whole[:16] + struct.pack(">II", 100_000, 100_000) + whole[24:])
    with pytest.raises(FileFormatError, match="claims 100000 x 100000 pixels; at most 100000000"):
        read_image(file)
    file.write_bytes(b"no image")
    with pytest.raises(FileFormatError, match="this is not a PNG"):
        read_image(file)
    with pytest.raises(FileFormatError, match="there is no such file"):
        read_image(tmp_path / "b.png")


def png(pixels):
    """A PNG of 8 bits for each channel, by its specification."""
    height, width, channels = pixels.shape

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_real_frame():
    file = real_data("kitti", "training", "velodyne", "000008.bin")
    frame = read_frame(file.parents[2], "000008")
    boxes, labels = labels_beside(file, ("Car",))
    np.testing.assert_allclose(boxes, frame.boxes, rtol=1e-6)
    assert labels.tolist() == [0 if kind == "Car" else -1 for kind in frame.objects.types]
    if (image := image_beside(file)) is not None:
        pixels = read_image(image)
        assert pixels.shape == (*frame.image_size[::-1], 3)
        assert 0.2 < pixels.mean() < 0.6
