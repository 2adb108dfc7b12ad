import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pctransformer.datasets import FileFormatError, read_mesh, read_points, write_ply
from pctransformer.datasets.formats.pcd import lzf_expand
from tests.real_data import real_data

XYZ = np.array([[0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 2, 0.5]], np.float32)
"""A rectangle with one lifted corner."""


def ply_header(order: str, *lines: str) -> bytes:
    return "\n".join(["ply", f"format {order} 1.0", "comment made by hand", *lines, "end_header", ""]).encode()


VERTEX = ("element vertex 4", "property float x", "property float y", "property float z")
FACE = ("element face 2", "property list uchar int vertex_indices")
PCD_HEADER = (
    "VERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA "
)
RGB = np.array([0xFF102030, 0x0000FF01], "<u4")  # the first is NaN when read as a float


def literal_lzf(data: bytes) -> bytes:
    """LZF without any copies: runs of at most 32 bytes."""
    return b"".join(bytes([len(data[i : i + 32]) - 1]) + data[i : i + 32] for i in range(0, len(data), 32))


def saved(function, *arrays, **named) -> bytes:
    stream = io.BytesIO()
    function(stream, *arrays, **named)
    return stream.getvalue()


def pcd_compressed() -> bytes:
    columns = XYZ[:2].T.tobytes() + RGB.tobytes()
    packed = literal_lzf(columns)
    return (PCD_HEADER + "binary_compressed\n").encode() + struct.pack("<II", len(packed), len(columns)) + packed


STL_TRIANGLES = np.zeros(2, np.dtype([("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")]))
STL_TRIANGLES["c"] = XYZ[[[0, 1, 2], [0, 2, 3]]]

GOOD = {
    "text.ply": ply_header("ascii", *VERTEX, *FACE) + b"0 0 0\n1 0 0\n1 2 0\n0 2 .5\n3 0 1 2\n3 0 2 3\n",
    "quad.ply": ply_header("ascii", *VERTEX, "element face 1", FACE[1]) + b"0 0 0\n1 0 0\n1 2 0\n0 2 .5\n4 0 1 2 3\n",
    "little.ply": ply_header("binary_little_endian", *VERTEX, *FACE)
    + XYZ.astype("<f4").tobytes()
    + struct.pack("<B3iB3i", 3, 0, 1, 2, 3, 0, 2, 3),
    "big.ply": ply_header("binary_big_endian", *VERTEX, *FACE)
    + XYZ.astype(">f4").tobytes()
    + struct.pack(">B3iB3i", 3, 0, 1, 2, 3, 0, 2, 3),
    "mixed.ply": ply_header("binary_little_endian", *VERTEX, *FACE)
    + XYZ.astype("<f4").tobytes()
    + struct.pack("<B2iB4i", 2, 0, 1, 4, 0, 1, 2, 3),
    "strip.ply": ply_header(
        "binary_little_endian", *VERTEX, "element tristrips 1", "property list int int vertex_indices"
    )
    + XYZ.astype("<f4").tobytes()
    + struct.pack("<7i", 6, 1, 2, 0, 3, -1, 0),
    "cloud.ply": ply_header("ascii", *VERTEX, "property uchar red") + b"0 0 0 9\n1 0 0 8\n1 2 0 7\n0 2 .5 6\n",
    "plain.off": b"OFF\n# made by hand\n4 2 0\n0 0 0\n1 0 0\n\n1 2 0\n0 2 .5\n3 0 1 2\n3 0 2 3\n",
    "merged.off": b"OFF4 2 0\n0 0 0\n1 0 0\n1 2 0\n0 2 .5\n3 0 1 2\n3 0 2 3\n",
    "spaced.off": b"OFF 4 1 0\n0 0 0\n1 0 0\n1 2 0\n0 2 .5\n4 0 1 2 3\n",
    "colour.off": b"COFF\n4 2 0\n0 0 0 1 0 0 1\n1 0 0 1 0 0 1\n1 2 0 1 0 0 1\n0 2 .5 1 0 0 1\n3 0 1 2 .5\n3 0 2 3\n",
    "normal.off": b"NOFF\n4 1 0\n0 0 0 0 0 1\n1 0 0 0 0 1\n1 2 0 0 0 1\n0 2 .5 0 0 1\n4 0 1 2 3 255 0 0\n",
    "plain.obj": b"# h\nusemtl a\nv 0 0 0\nv 1 0 0\nv 1 2 0\nv 0 2 .5\nvn 0 0 1\nf 1//1 2//1 3//1\nf 1/1 3/2 4\n",
    "negative.obj": b"v 0 0 0\nv 1 0 0\nv 1 2 0\nf -3 -2 -1\nv 0 2 .5\nf 1 -2 \\\n-1\n",
    "binary.stl": b"solid but binary".ljust(80) + struct.pack("<I", 2) + STL_TRIANGLES.tobytes(),
    "text.stl": b"solid\n"
    + b"".join(
        b"facet normal 0 0 1\nouter loop\n"
        + b"".join(b"vertex %g %g %g\n" % tuple(p) for p in XYZ[corners])
        + b"endloop\nendfacet\n"
        for corners in ([0, 1, 2], [0, 2, 3])
    )
    + b"endsolid\n",
    "single.npy": saved(np.save, XYZ),
    "fortran.npy": saved(np.save, np.asfortranarray(XYZ)),
    "named.npz": saved(np.savez, points=XYZ, other=np.ones(2)),
    "packed.npz": saved(np.savez_compressed, XYZ),
    "text.pcd": (PCD_HEADER + "ascii\n0 0 0 1\n1 0 0 2\n").encode(),
    "binary.pcd": (PCD_HEADER + "binary\n").encode() + np.column_stack([XYZ[:2], RGB.view("<f4")]).tobytes(),
    "compressed.pcd": pcd_compressed(),
    "blanks.xyz": b"# x y z\n0 0 0\n1 0 0\n1 2 0\n0 2 .5\n",
    "commas.txt": b"0,0,0\n1,0,0\n1,2,0\n0,2,.5\n",
    "titled.csv": b"x;y;z\n0;0;0\n1;0;0\n1;2;0\n0;2;.5;\n",
    "counted.xyz": b"4\n0 0 0\n1 0 0\n1 2 0\n0 2 .5\n",
    "raw.bin": XYZ.tobytes(),
}
MESHES = [
    name for name in GOOD if name.endswith((".off", ".obj", ".stl")) or name in ("text.ply", "little.ply", "big.ply")
]


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def read(path: Path) -> np.ndarray:
    return read_points(path, columns=3, num_points=10)


# ---- right answers ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*MESHES, "quad.ply", "mixed.ply"])
def test_meshes_by_hand(tmp_path, name):
    vertices, faces = read_mesh(write(tmp_path, name, GOOD[name]))
    assert vertices.dtype == np.float64
    assert vertices[faces].tolist() == XYZ[[[0, 1, 2], [0, 2, 3]]].tolist()


def test_strips_turn_every_second_triangle(tmp_path):
    _, faces = read_mesh(write(tmp_path, "strip.ply", GOOD["strip.ply"]))
    assert faces.tolist() == [[1, 2, 0], [0, 2, 3]]


@pytest.mark.parametrize("name", [n for n in GOOD if n.endswith((".npy", ".npz", ".xyz", ".txt", ".csv", ".bin"))])
def test_tables_by_hand(tmp_path, name):
    points = read(write(tmp_path, name, GOOD[name]))
    assert points.tolist() == XYZ.tolist()
    assert points.dtype == (np.float64 if name.endswith(("xyz", "txt", "csv")) else np.float32)


def test_ply_columns_by_name(tmp_path):
    path = write(tmp_path, "cloud.ply", GOOD["cloud.ply"])
    assert read_points(path)[:, 3].tolist() == [9, 8, 7, 6]
    assert read_points(path, features=()).tolist() == XYZ.tolist()
    assert read_points(path, features=("red",)).shape == (4, 4)
    with pytest.raises(FileFormatError, match=r"no nx, only x, y, z, red"):
        read_points(path, features=("nx",))


@pytest.mark.parametrize("name", ["binary.pcd", "compressed.pcd"])
def test_pcd_by_hand(tmp_path, name):
    points = read_points(write(tmp_path, name, GOOD[name]))
    assert points.tolist() == [[0, 0, 0, 0x10, 0x20, 0x30], [1, 0, 0, 0, 255, 1]]
    assert points.dtype == np.float32


def test_pcd_names_histograms_and_padding(tmp_path):
    header = "FIELDS normal_x x _ y z fpfh\nSIZE 8 4 1 4 4 4\nTYPE F F U F F F\nCOUNT 1 1 3 1 1 2\n"
    header += "WIDTH 1\nHEIGHT 1\nDATA ascii\n"
    path = write(tmp_path, "a.pcd", (header + "0.5 1 0 0 0 2 3 7 8\n").encode())
    assert read_points(path, features=("nx",)).tolist() == [[1, 2, 3, 0.5]]
    assert read_points(path).shape == (1, 4)


def test_lzf_copies_by_hand():
    # "ab", then 7 bytes from 2 back (they repeat what they write), then a long copy of 10 from 9 back, then "!"
    packed = bytes([1]) + b"ab" + bytes([5 << 5, 1]) + bytes([7 << 5, 1, 8]) + bytes([0]) + b"!"
    assert lzf_expand(packed, 20, "a.pcd") == b"ababababa" + b"ababababaa" + b"!"
    for broken in (packed[:-1], packed[:4], packed + b"\0", bytes([5 << 5, 1]), packed[:5]):
        with pytest.raises(FileFormatError):
            lzf_expand(broken, 20, "a.pcd")


def test_pcd_as_open3d_writes_it(tmp_path):
    open3d = pytest.importorskip("open3d")
    xyz = np.round(np.random.default_rng(0).normal(size=(3000, 3)), 1)  # coarse, so that the compression finds copies
    colors = np.random.default_rng(1).integers(0, 256, (3000, 3))
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz))
    cloud.colors = open3d.utility.Vector3dVector(colors / 255)
    for options in ({"write_ascii": True}, {}, {"compressed": True}):
        path = tmp_path / "a.pcd"
        assert open3d.io.write_point_cloud(str(path), cloud, **options)
        points = read_points(path, features=("red", "green", "blue"))
        np.testing.assert_allclose(points[:, :3], xyz, atol=1e-6)
        assert np.array_equal(points[:, 3:], colors)


def test_mesh_points_lie_on_the_surface(tmp_path):
    path = write(tmp_path, "a.off", b"OFF\n4 2 0\n0 0 1\n1 0 1\n1 2 1\n0 2 1\n3 0 1 2\n3 0 2 3\n")
    points = read_points(path, features=("nx", "ny", "nz"), num_points=100)
    assert points.shape == (100, 6)
    np.testing.assert_allclose(points[:, 2:], np.tile([1.0, 0, 0, 1], (100, 1)), atol=1e-12)
    assert np.array_equal(points, read_points(path, features=("nx", "ny", "nz"), num_points=100))
    other = read_points(path, num_points=100, generator=torch.Generator().manual_seed(5))
    assert other.shape == (100, 3)
    assert not np.array_equal(points[:, :3], other)
    with pytest.raises(FileFormatError, match="not red"):
        read_points(path, features=("red",))


def test_vertices_of_a_mesh_as_points(tmp_path):
    content = GOOD["text.ply"].replace(b"float z", b"float z\nproperty uchar red")
    for row in (b"0 0 0", b"1 0 0", b"1 2 0", b"0 2 .5"):
        content = content.replace(b"\n" + row + b"\n", b"\n" + row + b" 200\n")
    points = read_points(write(tmp_path, "a.ply", content), num_points=None)
    assert points.tolist() == [[*p, 200] for p in XYZ.tolist()]
    assert read_points(write(tmp_path, "a.off", GOOD["plain.off"]), num_points=None).tolist() == XYZ.tolist()


def test_obj_without_faces_is_a_cloud(tmp_path):
    path = write(tmp_path, "a.obj", b"v 1 2 3\nv 4 5 6\n")
    assert read_points(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(FileFormatError, match="no faces"):
        read_mesh(path)


def test_missing_returns_can_be_dropped(tmp_path):
    path = write(tmp_path, "a.xyz", b"0 0 0\nnan nan nan\n1 1 1\n")
    with pytest.raises(FileFormatError, match=r"1 of 3 points are NaN, .* first in row 1"):
        read_points(path)
    assert read_points(path, not_finite="drop").tolist() == [[0, 0, 0], [1, 1, 1]]


def test_large_coordinates_keep_their_digits(tmp_path):
    path = write(tmp_path, "utm.xyz", b"691234.123 5334321.456 519.789\n")
    assert read_points(path).tolist() == [[691234.123, 5334321.456, 519.789]]


# ---- writing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_write_ply_and_read_it_back(tmp_path, dtype):
    path = tmp_path / "a.ply"
    generator = np.random.default_rng(0)
    xyz, colors = generator.normal(size=(50, 3)).astype(dtype), generator.integers(0, 256, (50, 3)).astype(np.uint8)
    attention = generator.random(50).astype(np.float32)
    write_ply(path, xyz, colors=colors, features={"attention": attention})
    back = read_points(path)
    assert back.dtype == dtype
    assert np.array_equal(back[:, :3], xyz)
    assert np.array_equal(back[:, 3:6], colors)
    assert np.array_equal(read_points(path, features=("attention",))[:, 3], attention)
    write_ply(path, xyz, colors=colors / 255.0)
    assert np.array_equal(read_points(path)[:, 3:], colors)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]  # nothing left over


def test_write_ply_opens_elsewhere(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    write_ply(tmp_path / "a.ply", XYZ, colors=np.full((4, 3), [255, 0, 7], np.uint8))
    cloud = trimesh.load(tmp_path / "a.ply")
    assert np.array_equal(cloud.vertices, XYZ)
    assert (cloud.colors[:, :3] == [255, 0, 7]).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"xyz": np.ones((2, 4))}, r"\(n, 3\)"),
        ({"xyz": XYZ, "colors": np.ones((3, 3), np.uint8)}, "n = 4"),
        ({"xyz": XYZ, "colors": np.full((4, 3), 200.0)}, r"floats in \[0, 1\]"),
        ({"xyz": XYZ, "features": {"a b": np.ones(4)}}, "plain word"),
        ({"xyz": XYZ, "features": {"x": np.ones(4)}}, "plain word"),
        ({"xyz": XYZ, "features": {"a": np.ones(3)}}, r"\(n,\)"),
    ],
)
def test_write_ply_checks(tmp_path, arguments, text):
    with pytest.raises(ValueError, match=text):
        write_ply(tmp_path / "a.ply", **arguments)
    assert not list(tmp_path.iterdir())


# ---- errors ----------------------------------------------------------------------------------------------------------
HUGE = 10**12
BAD = [
    ("a.ply", b"", "empty"),
    ("a.ply", b"plx\n", "starts with 'ply'"),
    ("a.ply", GOOD["text.ply"][:60], "end_header"),
    ("a.ply", GOOD["text.ply"].replace(b"vertex 4", b"vertex 5"), "promises 7 rows, but there are 6"),
    ("a.ply", GOOD["text.ply"] + b"1 2 3\n", "promises 6 rows, but there are 7"),
    ("a.ply", GOOD["text.ply"].replace(b"3 0 2 3", b"3 0 2 4"), "vertex 4, but there are 4"),
    ("a.ply", GOOD["text.ply"].replace(b"1 2 0", b"1 nan 0"), "NaN"),
    ("a.ply", GOOD["text.ply"].replace(b"1 2 0", b"1 two 0"), "equally many numbers"),
    ("a.ply", GOOD["text.ply"].replace(b"float z", b"float w"), "have no z, only x, y, w"),
    ("a.ply", GOOD["text.ply"].replace(b"float z", b"float y"), "each name should come once"),
    ("a.ply", GOOD["text.ply"].replace(b"float z", b"half z"), "not PLY"),
    ("a.ply", GOOD["text.ply"].replace(b"ascii", b"utf8"), "not PLY"),
    ("a.ply", GOOD["little.ply"][:-5], "promises 3 values"),
    ("a.ply", GOOD["little.ply"][:-30], "bytes for"),
    ("a.ply", GOOD["little.ply"] + b"\0", "1 bytes follow"),
    ("a.ply", GOOD["little.ply"].replace(b"vertex 4", b"vertex %d" % HUGE), f"promises {HUGE} rows of vertex"),
    ("a.ply", GOOD["little.ply"].replace(b"face 2", b"face %d" % HUGE), f"promises {HUGE} rows of face"),
    ("a.off", b"OFF BINARY\n\0\1", "numbers of vertices"),
    ("a.off", b"4OFF\n1 0 0\n0 0 0 0\n", "should start with one of OFF"),
    (
        "a.off",
        GOOD["plain.off"].replace(b"4 2 0", b"5 2 0"),
        "promises 7 vertices and faces, but there are 6; it was cut",
    ),
    ("a.off", GOOD["plain.off"].replace(b"4 2 0", b"%d 2 0" % HUGE), f"promises {HUGE + 2} vertices"),
    ("a.off", GOOD["plain.off"].replace(b"3 0 2 3", b"3 0 2 9"), "vertex 9, but there are 4"),
    ("a.off", GOOD["plain.off"].replace(b"3 0 2 3", b"4 0 2 3"), "promises 4 corners"),
    ("a.off", GOOD["plain.off"].replace(b"1 2 0", b"1 inf 0"), "infinite"),
    ("a.off", b"OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n", "area"),
    ("a.obj", b"f 1 2 3\n", "no vertices"),
    ("a.obj", GOOD["plain.obj"] + b"f 1 2 5\n", "there are 4 vertices"),
    ("a.obj", GOOD["plain.obj"] + b"f 1 2 x\n", "list vertex numbers"),
    ("a.stl", GOOD["binary.stl"][:-1], "promises 2 triangles, but there are bytes for 1.98"),
    ("a.stl", b"hello", "neither a text that begins with solid, nor 84 bytes of header: 5"),
    ("a.stl", GOOD["text.stl"][:-10], "cut off"),
    ("a.stl", GOOD["text.stl"].replace(b"endloop", b""), "expected a row that starts with 'endloop'"),
    ("a.npy", GOOD["single.npy"][:-1], "48 bytes, but there are 47"),
    ("a.npy", saved(np.save, np.array([{}], dtype=object), allow_pickle=True), "never pickled"),
    ("a.npy", saved(np.save, np.ones(4)), r"shape \(n, 3 \+ c\)"),
    ("a.npy", b"\x93NUMPY\1\0\4\0((((", "not a readable npy"),
    ("a.npz", GOOD["packed.npz"][:-30], "not a readable npz"),
    ("a.npy", saved(np.save, np.ones((3, 64))), "if its columns are the points, transpose it"),
    ("a.npz", saved(np.savez, a=XYZ, b=XYZ), "called points, xyz or pos"),
    ("a.npz", saved(np.savez), "there are no arrays in it"),
    ("a.npz", saved(np.savez, points=np.array([{}], dtype=object)), "never pickled"),
    ("a.pcd", b"FIELDS x y z\n", "line DATA"),
    ("a.pcd", GOOD["text.pcd"] + b"1 1 1 1\n", "promises 2 points, but there are 3"),
    ("a.pcd", GOOD["text.pcd"].replace(b"WIDTH 2", b"WIDTH 3"), "WIDTH x HEIGHT is 3 x 1"),
    ("a.pcd", GOOD["binary.pcd"][:-1], "32 bytes of points, but there are 31"),
    ("a.pcd", GOOD["compressed.pcd"][:-1], "expanded"),
    ("a.pcd", GOOD["text.pcd"].replace(b"ascii", b"zip"), "DATA should be"),
    ("a.pcd", GOOD["text.pcd"].replace(b"SIZE 4", b"SIZE 3"), "types that PCD knows"),
    ("a.pcd", GOOD["text.pcd"].replace(b"S x y", b"S x x"), "each field once"),
    ("a.xyz", b"0 0\n1 1\n", "at least 3 values"),
    ("a.xyz", b"0 0 0\n1 1\n", "equally many numbers"),
    ("a.xyz", b"3\n0 0 0\n1 1 1\n", "promises 3 points, but there are 2"),
    ("a.xyz", b"\x80\x81\n", "plain text"),
    ("a.xyz", b"# only a comment\n", "no rows"),
    ("a.xyz", b"0 0 1e300\n", "beyond"),
    ("a.bin", GOOD["raw.bin"][:-1], "47 bytes are not a whole number of points with 3"),
    ("a.las", b"LASF", "'.las' are not read; known are .ply"),
]


@pytest.mark.parametrize(("name", "content", "text"), BAD, ids=[f"{n} {t}" for n, _, t in BAD])
def test_broken_files_are_explained(tmp_path, name, content, text):
    with pytest.raises(FileFormatError, match=text) as caught:
        read(write(tmp_path, name, content))
    assert str(tmp_path / name) in str(caught.value)


def test_missing_and_unsuitable_paths(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        read_points(tmp_path / "a.ply")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(FileFormatError, match="not a file"):
        read_points(tmp_path / "folder.ply")
    with pytest.raises(FileFormatError, match="columns=4 for KITTI, 5 for nuScenes"):
        read_points(write(tmp_path, "a.bin", GOOD["raw.bin"]))
    with pytest.raises(FileFormatError, match="meshes end in"):
        read_mesh(tmp_path / "a.xyz")
    with pytest.raises(FileFormatError, match="no names to find nx by"):
        read_points(write(tmp_path, "a.xyz", GOOD["blanks.xyz"]), features=("nx",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ply", GOOD["little.ply"].replace(b"vertex 4", b"vertex %d" % HUGE)),
        ("a.pcd", GOOD["binary.pcd"].replace(b"WIDTH 2", b"WIDTH %d" % HUGE).replace(b"POINTS 2", b"POINTS %d" % HUGE)),
        ("a.npy", GOOD["single.npy"].replace(b"(4, 3), } ", b"(%d,3),}" % 10**5)),
        ("a.stl", GOOD["binary.stl"][:80] + b"\xff\xff\xff\xff" + GOOD["binary.stl"][84:]),
        ("a.pcd", GOOD["compressed.pcd"].replace(b"WIDTH 2", b"WIDTH 9999999").replace(b"POINTS 2", b"POINTS 9999999")),
    ],
    ids=["ply", "pcd", "npy", "stl", "compressed pcd"],
)
def test_promises_allocate_nothing(tmp_path, name, content):
    path = write(tmp_path, name, content)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match="promises"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_zip_bombs_are_refused(tmp_path):
    """An array of half a gigabyte of zeros in half a megabyte is a true array; a header that claims more is not."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", saved(np.save, np.zeros((1000, 3))))
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\1\2")
    content[central + 24 : central + 28] = struct.pack("<I", 2**31)
    with pytest.raises(FileFormatError, match="too many"):
        read_points(write(tmp_path, "b.npz", bytes(content)))


# ---- whatever happens to a file, we say so or are right --------------------------------------------------------------
@pytest.mark.parametrize("name", GOOD)
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files(tmp_path, name, data):
    content = bytearray(GOOD[name])
    match data.draw(st.sampled_from(["cut", "flip", "prepend", "append", "insert", "repeat"])):
        case "cut":
            content = content[: data.draw(st.integers(0, len(content)))]
        case "flip":
            for _ in range(data.draw(st.integers(1, 4))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        case "prepend":
            content = data.draw(st.binary(min_size=1, max_size=20)) + content
        case "append":
            content = content + data.draw(st.binary(min_size=1, max_size=20))
        case "insert":
            at = data.draw(st.integers(0, len(content)))
            content = content[:at] + data.draw(st.binary(min_size=1, max_size=8)) + content[at:]
        case "repeat":
            begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
            content = content[:end] + content[begin:]
    path = write(tmp_path, name, bytes(content))
    tracemalloc.start()
    problem, points = "", None
    try:
        points = read(path)
    except FileFormatError as error:
        problem = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if points is None:
        assert str(path) in problem
    else:
        assert points.ndim == 2
        assert points.shape[1] >= 3
        assert len(points)
        assert np.isfinite(points).all()
        assert points.dtype in (np.float32, np.float64)
    assert peak < 5e6


@pytest.mark.parametrize(
    "name", ["little.ply", "plain.off", "binary.stl", "text.stl", "binary.pcd", "single.npy", "compressed.pcd"]
)
def test_every_cut_is_noticed(tmp_path, name):
    """Formats that say how long they are: no prefix of a file passes, save for the last line break."""
    content = GOOD[name].rstrip(b"\n")
    for length in range(len(content) - 1):
        if content[length - 1 : length] in b"0123456789." and content[length : length + 1] in b"0123456789.":
            continue  # a text format cannot know that its last number lost a digit
        with pytest.raises(FileFormatError):
            read(write(tmp_path, name, content[:length]))


# ---- real files ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "vertices", "faces"),
    [
        ("chair_0001.off", 2382, 2234),
        ("chair_0002.off", 192, 96),
        ("toilet_0001.off", 3739, 6341),
        ("igea.ply", 134345, 2 * 134345 - 4),  # a closed surface without holes: F = 2 V - 4
        ("spot.obj", 2930, 5856),
        ("stanford-bunny.obj", 35947, 69451),
        ("suzanne.obj", 507, 968),
        ("teapot.obj", 3644, 6320),
    ],
)
def test_real_meshes(name, vertices, faces):
    path = real_data("meshes", name)
    mesh = read_mesh(path)
    assert (len(mesh[0]), len(mesh[1])) == (vertices, faces)
    points = read_points(path, features=("nx", "ny", "nz"))
    assert points.shape == (4096, 6)
    assert (points[:, :3].min(0) >= mesh[0].min(0) - 1e-9).all()
    np.testing.assert_allclose(np.linalg.norm(points[:, 3:], axis=1), 1)


def test_real_meshes_as_trimesh_sees_them():
    trimesh = pytest.importorskip("trimesh")
    for name in ("chair_0001.off", "spot.obj", "teapot.obj"):
        path = real_data("meshes", name)
        theirs = trimesh.load(path, process=False, force="mesh")
        vertices, faces = read_mesh(path)
        corners = vertices[faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
        assert area == pytest.approx(theirs.area, rel=1e-6)


def test_real_scans():
    sweep = read_points(real_data("scans", "nuscenes_lidar_top.pcd.bin"), columns=5)
    assert sweep.shape == (34688, 5)
    assert set(np.unique(sweep[:, 4])) == set(range(32))  # rings
    room = read_points(real_data("scans", "scannet_scene0000_00.bin"), columns=6)
    assert room.shape == (40684, 6)
    assert 0 <= room[:, 3:].min() < room[:, 3:].max() <= 255
    frame = read_points(real_data("kitti", "training", "velodyne", "000008.bin"), columns=4)
    assert 0 <= frame[:, 3].min() < frame[:, 3].max() <= 1
