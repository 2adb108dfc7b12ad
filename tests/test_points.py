import doctest
import importlib.util

import numpy as np
import pytest
import torch

import pctransformer.points
from pctransformer import PointBatch

needs_open3d = pytest.mark.skipif(importlib.util.find_spec("open3d") is None, reason="open3d is not installed")


def equal(a: PointBatch, b: PointBatch) -> bool:
    return (
        torch.equal(a.xyz, b.xyz)
        and torch.equal(a.offsets, b.offsets)
        and (a.features is None) == (b.features is None)
        and (a.features is None or torch.equal(a.features, b.features))
        and a.max_points == b.max_points
    )


@pytest.fixture
def ragged() -> PointBatch:
    return PointBatch.from_list([torch.rand(4, 5), torch.rand(0, 5), torch.rand(1, 5), torch.rand(2, 5)])


@pytest.mark.parametrize(
    ("clouds", "text"),
    [
        (torch.rand(5, 3), r"clouds\[0\] is \(3,\); a single cloud is a list of one"),
        ([torch.rand(5, 2)], r"every cloud must be \(n, 3 \+ C\), but clouds\[0\] is \(5, 2\)$"),
        ([torch.rand(5, 3), torch.rand(5, 6)], r"the same C, but clouds\[1\] is \(5, 6\) and clouds\[0\] \(5, 3\)"),
    ],
)
def test_what_is_no_list_of_clouds(clouds, text):
    with pytest.raises(ValueError, match=text):
        PointBatch.from_list(clouds)


def test_from_list_by_hand():
    batch = PointBatch.from_list(
        [torch.tensor([[1.0, 2, 3, 9]]), torch.zeros(0, 4), torch.tensor([[4.0, 5, 6, 8]] * 2)]
    )
    assert batch.xyz.tolist() == [[1, 2, 3], [4, 5, 6], [4, 5, 6]]
    assert batch.features is not None
    assert batch.features.tolist() == [[9], [8], [8]]
    assert batch.offsets.tolist() == [0, 1, 1, 3]
    assert batch.lengths.tolist() == [1, 0, 2]
    assert batch.batch_index.tolist() == [0, 2, 2]
    assert (len(batch), batch.max_points, batch.is_dense) == (3, 2, False)


def test_dense_batches_keep_their_shape():
    points = torch.rand(3, 7, 5)
    batch = PointBatch.from_dense(points)
    assert batch.is_dense
    assert torch.equal(batch.xyz.view(3, 7, 3), points[..., :3])
    assert equal(batch, PointBatch.from_list(list(points)))
    assert equal(batch, PointBatch.from_dense(points[..., :3], points[..., 3:]))


def test_padding_mask_and_back(ragged):
    xyz, features, valid = ragged.pad()
    assert valid.sum(1).tolist() == [4, 0, 1, 2]
    assert not xyz[~valid].any()
    assert equal(PointBatch.from_dense(xyz, features, valid=valid), ragged)


def test_all_doors_lead_to_the_same_batch(ragged):
    xyz, features, offsets = ragged.xyz, ragged.features, ragged.offsets
    points = torch.cat([xyz, features], 1)
    assert equal(PointBatch.from_offsets(xyz, offsets, features), ragged)
    assert equal(PointBatch.from_offsets(points, offsets.int()), ragged)
    assert equal(PointBatch.from_pointcept({"coord": xyz, "feat": features, "offset": offsets[1:]}), ragged)
    assert equal(PointBatch.from_batch_index(xyz, ragged.batch_index, features), ragged)
    assert equal(PointBatch.from_batch_index(points, torch.tensor([0.0, 0, 0, 0, 2, 3, 3])), ragged)
    assert equal(PointBatch.from_list([points[a:b].numpy() for a, b in ((0, 4), (4, 4), (4, 5), (5, 7))]), ragged)
    assert len(PointBatch.from_batch_index(xyz, ragged.batch_index, num_clouds=6)) == 6


def test_split_gives_the_clouds_back(ragged):
    clouds = ragged.split()
    assert [len(cloud) for cloud in clouds] == [1] * 4
    assert [cloud.max_points for cloud in clouds] == [4, 0, 1, 2]
    assert equal(PointBatch.from_list([torch.cat([c.xyz, c.features], 1) for c in clouds]), ragged)


def test_replace_shares_and_never_writes(ragged):
    before = ragged.xyz.clone()
    moved = ragged.replace(xyz=ragged.xyz + 1)
    assert moved.features is ragged.features
    assert torch.equal(ragged.xyz, before)
    assert ragged.replace(offsets=torch.tensor([0, 7])).max_points is None
    with pytest.raises(AttributeError):
        ragged.xyz = moved.xyz


def test_no_clouds_and_no_points():
    assert PointBatch.from_dense(torch.zeros(0, 8, 3)).pad()[0].shape == (0, 0, 3)
    empty = PointBatch.from_list([torch.zeros(0, 3)])
    assert (len(empty), empty.max_points, empty.pad()[0].shape) == (1, 0, (1, 0, 3))
    assert PointBatch.from_batch_index(torch.zeros(0, 3), torch.zeros(0)).split() == []


def test_large_coordinates_lose_nothing():
    """A 7-digit UTM northing in float32 is off by up to 0.25 m; around an origin it keeps micrometres."""
    utm = np.array([[448262.123, 5411932.678, 116.25], [448264.5, 5411930.125, 115.0]])
    batch = PointBatch.from_list([utm, np.zeros((0, 3)), utm + 1000])
    assert batch.origin is not None
    restored = batch.xyz.double() + batch.origin[batch.batch_index]
    assert np.abs(restored.numpy() - np.concatenate([utm, utm + 1000])).max() < 1e-6
    assert torch.equal(batch.split()[2].origin, batch.origin[2:])
    assert PointBatch.from_list([np.random.default_rng(0).normal(size=(5, 3))]).origin is None


@needs_open3d
@pytest.mark.filterwarnings("ignore")
def test_from_open3d():
    import open3d

    points, colors = np.random.default_rng(0).random((6, 3)), np.random.default_rng(1).random((6, 3))
    legacy = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    legacy.colors = open3d.utility.Vector3dVector(colors)
    tensor_kind = open3d.t.geometry.PointCloud.from_legacy(legacy)
    expected = PointBatch.from_list([np.concatenate([points, colors], 1)] * 2)
    got = PointBatch.from_open3d([legacy, tensor_kind], features=("colors",))
    assert torch.allclose(got.xyz, expected.xyz)
    assert torch.allclose(got.features, expected.features)
    assert PointBatch.from_open3d(legacy).features is None
    with pytest.raises(ValueError, match="no 'normals' for its 6 points"):
        PointBatch.from_open3d(legacy, features=("normals",))


def test_compiles():
    def shift(batch: PointBatch) -> PointBatch:
        return batch.replace(xyz=batch.xyz - batch.xyz.mean(0))

    batch = PointBatch.from_list([torch.rand(4, 3), torch.rand(2, 3)])
    assert equal(torch.compile(shift, fullgraph=True, backend="aot_eager")(batch), shift(batch))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: PointBatch.from_dense(torch.rand(2, 3, 1024)), ValueError, "channels first"),
        (lambda: PointBatch.from_dense(torch.rand(10, 3)), ValueError, r"\(B, N, 3 \+ C\)"),
        (lambda: PointBatch.from_dense(torch.rand(2, 9, 3), torch.rand(2, 8, 1)), ValueError, "features must be"),
        (lambda: PointBatch.from_dense(torch.rand(2, 9, 3), valid=torch.ones(2, 8).bool()), ValueError, "valid"),
        (lambda: PointBatch.from_list([]), ValueError, "at least one cloud"),
        (lambda: PointBatch.from_list([torch.rand(4, 3), torch.rand(4, 4)]), ValueError, r"clouds\[1\] is \(4, 4\)"),
        (lambda: PointBatch.from_list([torch.rand(3, 900)[:, :2]]), ValueError, r"clouds\[0\]"),
        (lambda: PointBatch.from_list([np.array([["a", "b", "c"]])]), TypeError, "numbers"),
        (lambda: PointBatch.from_list([[[0.0, 0, 0]]]), TypeError, "torch.Tensor"),
        (lambda: PointBatch.from_offsets(torch.rand(9, 3), torch.tensor([4, 9])), ValueError, "from_pointcept"),
        (lambda: PointBatch.from_offsets(torch.rand(9, 3), torch.tensor([0, 8])), ValueError, "number of points, 9"),
        (lambda: PointBatch.from_offsets(torch.rand(9, 3), torch.tensor([0, 5, 4, 9])), ValueError, "decrease"),
        (lambda: PointBatch.from_pointcept({"coord": torch.rand(9, 3)}), ValueError, "'offset'"),
        (lambda: PointBatch.from_batch_index(torch.rand(3, 3), torch.tensor([0, 1, 0])), ValueError, "argsort"),
        (lambda: PointBatch.from_batch_index(torch.rand(3, 3), torch.tensor([0, 1])), ValueError, "N = 3"),
        (
            lambda: PointBatch.from_batch_index(torch.rand(1, 3), torch.tensor([4]), num_clouds=2),
            ValueError,
            "names cloud 4",
        ),
        (lambda: PointBatch.from_list([torch.tensor([[0.0, 0, 0], [0, np.nan, 0]])]), ValueError, "row 1"),
        (lambda: PointBatch(torch.rand(4, 3), torch.tensor([0, 4]), torch.rand(3, 1)), ValueError, "4 points"),
        (lambda: PointBatch(torch.rand(4, 3).double(), torch.tensor([0, 4])), TypeError, "float32"),
        (lambda: PointBatch(torch.rand(4, 3), torch.tensor([0, 4]), max_points=3).validate(), ValueError, "largest"),
    ],
)
def test_bad_input_is_explained(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_docstring_example():
    assert doctest.testmod(pctransformer.points, extraglobs={"torch": torch}).failed == 0


@pytest.mark.cuda
def test_on_cuda(ragged):
    moved = ragged.pin_memory().to("cuda", non_blocking=True)
    assert moved.device.type == "cuda"
    assert equal(moved.to("cpu"), ragged)
    assert PointBatch.from_list(list(torch.rand(2, 5, 3, device="cuda"))).max_points == 5
