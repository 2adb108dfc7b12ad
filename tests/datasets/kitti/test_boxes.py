import numpy as np
import pytest

from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.kitti import (
    Calibration,
    camera_boxes,
    lidar_boxes,
    project_boxes,
    project_lines,
    read_calibration,
    to_kitti,
)
from pctransformer.datasets.kitti.boxes import box_corners
from pctransformer.datasets.kitti.calibration import read_plane
from pctransformer.datasets.kitti.images import read_image_size
from pctransformer.datasets.scans import in_box
from tests.datasets.kitti.files import CALIBRATION, FOCAL, SIZE, calibration, camera_objects
from tests.real_data import real_data

# cameras that look exactly along the LiDAR's x, one metre above the origin of nothing: all numbers can be seen
PLAIN = Calibration(
    np.array([[FOCAL, 0, 600, 0], [0, FOCAL, 180, 0], [0, 0, 1, 0]], float),
    np.eye(3),
    np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]], float),
)


def random_boxes(n=200):
    generator = np.random.default_rng(0)
    low, high = [3, -30, -3, 0.3, 0.3, 0.5, -np.pi], [70, 30, 1, 8, 3, 3, np.pi]
    return generator.uniform(low, high, (n, 7))


def test_a_camera_box_by_hand():
    """A car 10 m ahead, 2 m to the left, whose bottom is 1.5 m below the sensors, that drives to the right."""
    objects = camera_objects([(1, 0, 0, 1, 1, 1, 0)], ["Car"])
    objects.dimensions[:], objects.locations[:], objects.rotation_y[:] = (1.4, 1.6, 4.0), (-2, 1.5, 10), 0.0
    np.testing.assert_allclose(lidar_boxes(objects, PLAIN), [[10, 2, -1.5 + 0.7, 4.0, 1.6, 1.4, -np.pi / 2]])
    objects.rotation_y[:] = -np.pi / 2  # it drives away from the camera
    assert lidar_boxes(objects, PLAIN)[0, 6] == pytest.approx(0)


def test_labels_to_lidar_boxes_and_back():
    boxes = random_boxes()
    objects = camera_objects(boxes, ["Car"] * len(boxes))
    np.testing.assert_allclose(lidar_boxes(objects, calibration()), boxes, atol=1e-10)
    dimensions, locations, rotation_y = camera_boxes(lidar_boxes(objects, calibration()), calibration())
    np.testing.assert_allclose(dimensions, objects.dimensions, atol=1e-12)
    np.testing.assert_allclose(locations, objects.locations, atol=1e-10)
    np.testing.assert_allclose(np.exp(1j * rotation_y), np.exp(1j * objects.rotation_y), atol=1e-12)


def test_corners_of_a_box():
    corners = box_corners(np.array([[1, 2, 3, 4, 2, 1, np.pi / 2]]))[0]
    np.testing.assert_allclose(corners[0], [0, 4, 2.5], atol=1e-12)  # front left of one that looks to +y
    np.testing.assert_allclose(corners.mean(0), [1, 2, 3], atol=1e-12)
    np.testing.assert_allclose(corners[4:] - corners[:4], [[0, 0, 1]] * 4, atol=1e-12)
    assert len(in_box(corners * 0.999 + np.array([1, 2, 3]) * 0.001, np.array([1, 2, 3, 4, 2, 1, np.pi / 2]))) == 8


def test_a_projection_by_hand():
    """A cube of 2 m whose near side is 9 m ahead."""
    rectangles, seen = project_boxes(np.array([[10, 0, 0, 2, 2, 2, 0]]), PLAIN, SIZE)
    half = FOCAL / 9
    np.testing.assert_allclose(rectangles[0], [600 - half, 180 - half, 600 + half, 180 + half])
    assert seen.tolist() == [True]


def test_boxes_at_the_border_and_behind():
    boxes = np.array(
        [
            [10, 30, 0, 2, 2, 2, 0],  # left of what the camera sees
            [-10, 0, 0, 2, 2, 2, 0],  # behind
            [0, 0, 0, 40, 2, 2, 0],  # the camera is inside: it fills the image
            [2, 2.2, 0, 6, 1, 1, 0],  # begins behind the camera, ends in front, to the left
        ]
    )
    rectangles, seen = project_boxes(boxes, PLAIN, SIZE)
    assert seen.tolist() == [False, False, True, True]
    assert rectangles[0].tolist() == [0] * 4
    assert rectangles[2].tolist() == [0, 0, SIZE[0] - 1, SIZE[1] - 1]
    left, _, right, _ = rectangles[3]
    assert (left, right) == (0, pytest.approx(600 - 1.7 / 5 * FOCAL))  # its far right edge is at 5 m, 1.7 m to the left
    assert project_boxes(np.zeros((0, 7)), PLAIN, SIZE)[0].shape == (0, 4)


def test_lines_in_the_image():
    """Against points that are projected by hand: x = 600 - f y / x, y = 180 - f z / x."""
    width, height = SIZE

    def at(x, y, z):
        return [600 - FOCAL * y / x, 180 - FOCAL * z / x]

    edge = 10 * (600 / FOCAL)  # metres to the left at which the image ends, 10 m ahead
    top = 10 * (180 / FOCAL)
    lines = np.array(
        [
            [[10, 1, 0.5], [20, -2, -1]],  # all of it in the image
            [[10, 1, 0], [10, 3 * edge, 0]],  # leaves it to the left
            [[10, 1, 0], [10, 1, 5 * top]],  # leaves it above
            [[10, 2 * edge, 1], [10, -4 * edge, 1]],  # through it from side to side
            [[10, 2 * edge, 0], [10, 0, 4 * top]],  # past its upper left corner
            [[-5, 1, 0], [-5, -1, 0]],  # behind
            [[10, 0, -1], [-10, 0, -1]],  # from ahead to behind, below the camera
            [[-3, 40, 0], [-1, 2, 0]],  # behind
            [[10, 0, 0], [10, 0, 0]],  # a point
            [[10, 2 * edge, 0], [10, 2 * edge, 0]],  # a point outside
            [[10, 2 * edge, 1], [10, 2 * edge, -1]],  # upright, outside
        ]
    )
    pixels, seen = project_lines(lines[:, 0], lines[:, 1], PLAIN, SIZE)
    assert seen.tolist() == [True, True, True, True, False, False, True, False, True, False, False]
    expected = [
        [at(10, 1, 0.5), at(20, -2, -1)],
        [at(10, 1, 0), [0, 180]],
        [at(10, 1, 0), [at(10, 1, 0)[0], 0]],
        [[0, 180 - FOCAL / 10], [width - 1, 180 - FOCAL / 10]],
        [at(10, 0, -1), [600, height - 1]],
        [[600, 180], [600, 180]],
    ]
    np.testing.assert_allclose(pixels[seen], expected, atol=1e-9)
    assert not pixels[~seen].any()
    none = project_lines(np.zeros((0, 3)), np.zeros((0, 3)), PLAIN, SIZE)
    assert (none[0].shape, none[1].shape) == ((0, 2, 2), (0,))


def test_lines_are_clipped_where_their_points_leave_the_image():
    """Of many points along random lines, those in the image lie on what is left of it, and all of it is theirs."""
    generator = np.random.default_rng(1)
    ends = generator.uniform([-5, -12, -4], [25, 12, 3], (300, 2, 3))
    pixels, seen = project_lines(ends[:, 0], ends[:, 1], calibration(), SIZE)
    assert 50 < seen.sum() < 280
    last = np.array(SIZE) - 1
    for line, clipped, there in zip(ends, pixels, seen):
        places, depth = calibration().to_image(
            calibration().to_camera(line[0] + np.linspace(0, 1, 2001)[:, None] * (line[1] - line[0]))
        )
        inside = places[(depth >= 0.1) & (places >= 0).all(1) & (places <= last).all(1)]
        if not there:
            assert len(inside) == 0
            continue
        assert (clipped >= 0).all()
        assert (clipped <= last).all()
        length = np.linalg.norm(clipped[1] - clipped[0])
        along = np.linalg.norm(inside - clipped[0], axis=1) + np.linalg.norm(inside - clipped[1], axis=1)
        np.testing.assert_allclose(along, length, atol=1e-6)  # none is off the line, or beyond its ends


def test_detections_for_kitti():
    boxes = np.array([[10, 2, -0.8, 4, 1.6, 1.4, 0.5], [-10, 0, 0, 2, 2, 2, 0], [20, -3, -0.8, 0.8, 0.6, 1.7, 2.0]])
    objects = to_kitti(
        boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1]), class_names=("Car", "Pedestrian"),
        calibration=calibration(), image_size=SIZE,
    )  # fmt: skip
    assert objects.types.tolist() == ["Car", "Pedestrian"]  # nothing behind the camera
    assert objects.scores.tolist() == [0.9, 0.7]
    np.testing.assert_allclose(lidar_boxes(objects, calibration()), boxes[[0, 2]], atol=1e-10)
    np.testing.assert_allclose(objects.boxes_2d, project_boxes(boxes[[0, 2]], calibration(), SIZE)[0])
    none = to_kitti(
        np.zeros((0, 7)), np.zeros(0), np.zeros(0), class_names=("Car",), calibration=PLAIN, image_size=SIZE
    )
    assert len(none) == 0


@pytest.mark.parametrize(
    ("heading", "alpha"), [(0.0, -np.pi / 2), (np.pi / 4, -np.pi / 2 - np.pi / 4), (-np.pi / 2, 0)]
)
def test_alpha_is_the_heading_seen_from_the_camera(heading, alpha):
    """What drives straight away has alpha -pi/2 wherever it is; to the right, 0."""
    for angle in (0.0, 0.3, -0.4):  # of the line of sight
        box = np.array([[20 * np.cos(angle), 20 * np.sin(angle), 0, 4, 2, 1.5, heading + angle]])
        objects = to_kitti(
            box, np.ones(1), np.zeros(1), class_names=("Car",), calibration=PLAIN, image_size=SIZE
        )  # fmt: skip
        assert objects.alpha[0] == pytest.approx(alpha)


def test_points_that_the_camera_sees():
    points = np.array([[10, 0, 0], [-10, 0, 0], [10, 9, 0], [10, 0, 3], [10, 8.2, 0]], float)
    assert PLAIN.in_view(points, SIZE).tolist() == [True, False, False, False, True]


# ---- files -----------------------------------------------------------------------------------------------------------
def test_calibration_is_read_by_name_in_any_order(tmp_path):
    lines = CALIBRATION.splitlines()
    (tmp_path / "a.txt").write_text("\n\n".join(reversed(lines)).replace("R0_rect:", "R_rect"))
    found, expected = read_calibration(tmp_path / "a.txt"), calibration()
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("P2:", "P9:", "there is no line P2"),
        ("44.9", "", "P2 should be 12 numbers"),
        ("44.9", "nan", "P2 should be 12 numbers"),
        ("44.9", "x", "could not convert"),
    ],
)
def test_broken_calibration_is_explained(tmp_path, old, new, problem):
    (tmp_path / "a.txt").write_text(CALIBRATION.replace(old, new))
    with pytest.raises(FileFormatError, match=problem):
        read_calibration(tmp_path / "a.txt")


def test_planes_are_turned_to_the_lidar(tmp_path):
    (tmp_path / "a.txt").write_text("# Matrix\nWIDTH 4\nHEIGHT 1\n0 -1 0 1.7\n")  # y = 1.7 below the camera
    np.testing.assert_allclose(read_plane(tmp_path / "a.txt", PLAIN), [0, 0, 1, 1.7])
    (tmp_path / "a.txt").write_text("0 1 0\n")
    with pytest.raises(FileFormatError, match="four numbers of a plane"):
        read_plane(tmp_path / "a.txt", PLAIN)


def test_a_size_is_read_from_pngs_only(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(FileFormatError, match="this is not a PNG"):
        read_image_size(tmp_path / "a.png")


# ---- real data -------------------------------------------------------------------------------------------------------
def test_real_labels_fit_points_image_and_road():
    """Boxes converted from real labels hold points, project onto the labels' boxes, and stand on the road."""
    from pctransformer.datasets.kitti import read_frame

    folder = real_data("kitti")
    overlaps, heights, filled = [], [], []
    for name in ("000000", "000003", "000008", "000142", "000217"):
        frame = read_frame(folder, name)
        points = frame.read_points()
        whole = frame.objects.truncated == 0
        a, b = project_boxes(frame.boxes, frame.calibration, frame.image_size)[0][whole], frame.objects.boxes_2d[whole]
        shared = np.prod(np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0), axis=1)
        areas = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b)]
        overlaps += list(shared / (sum(areas) - shared))
        filled += [len(in_box(points, box)) for box in frame.boxes]
        a, b, c, d = frame.plane
        x, y, z, *_, dz, _ = frame.boxes.T
        heights += list(z - dz / 2 + (a * x + b * y + d) / c)
        alpha = to_kitti(
            frame.boxes, np.ones(len(whole)), np.zeros(len(whole)), class_names=("Car",),
            calibration=frame.calibration, image_size=frame.image_size,
        ).alpha  # fmt: skip
        assert np.abs(np.exp(1j * alpha) - np.exp(1j * frame.objects.alpha)).max() < 0.02
    assert len(overlaps) >= 10
    assert np.median(overlaps) > 0.95
    assert np.abs(heights).max() < 0.4
    assert np.mean(np.array(filled) > 0) > 0.9
