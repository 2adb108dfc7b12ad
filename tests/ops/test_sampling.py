import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pctransformer.ops import _library, farthest_point_sample, reference
from tests.ops.clouds import RAGGED_SIZES, hostile, offsets_of, packed_clouds, ragged

OPERATOR = torch.ops.pctransformer.farthest_point_sample.default


def by_reference(xyz, offsets, num_samples, start=0, skip_near_origin=False):
    clouds = len(offsets) - 1
    sample_offsets = torch.arange(clouds + 1) * num_samples
    starts = torch.full((clouds,), start)
    return reference.farthest_point_sample(xyz, offsets, sample_offsets, starts, clouds * num_samples, skip_near_origin)


def test_two_squares_by_hand():
    """Two unit squares, 10 apart: after the start its farthest corner, then the corners in order of index."""
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    xyz = torch.cat([square, square + torch.tensor([10.0, 0, 0])])
    assert farthest_point_sample(xyz, offsets_of([8]), 8).tolist() == [0, 6, 2, 4, 1, 3, 5, 7]
    assert farthest_point_sample(xyz, offsets_of([4, 4]), 2).tolist() == [0, 2, 4, 6]
    assert farthest_point_sample(xyz, offsets_of([4, 4]), 2, start=1).tolist() == [1, 3, 5, 7]
    assert farthest_point_sample(xyz, offsets_of([4, 4]), [1, 3], start=torch.tensor([2, 0])).tolist() == [2, 4, 6, 5]


def test_more_samples_than_points_gives_minus_one():
    xyz, offsets = ragged([2, 0, 1])
    assert farthest_point_sample(xyz, offsets, 3).tolist() == [0, 1, -1, -1, -1, -1, 2, -1, -1]


def test_coinciding_points_repeat_the_first():
    assert farthest_point_sample(torch.ones(4, 3), offsets_of([4]), 3, start=2).tolist() == [2, 0, 0]


def test_skip_near_origin():
    xyz = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [0.5, 0, 0], [0.03, 0, 0]])
    assert farthest_point_sample(xyz, offsets_of([4]), 4).tolist() == [0, 2, 3, 1]
    assert farthest_point_sample(xyz, offsets_of([4]), 2, skip_near_origin=True).tolist() == [0, 2]
    assert farthest_point_sample(xyz[:2], offsets_of([2]), 2, skip_near_origin=True).tolist() == [0, -1]


@pytest.mark.parametrize("skip_near_origin", [False, True])
def test_equals_reference_on_ragged_batch(skip_near_origin):
    xyz, offsets = ragged([3000, 0, 1, 700, 5000, 2])  # on both sides of every switch between algorithms
    ours = farthest_point_sample(xyz * 0.1, offsets, 64, skip_near_origin=skip_near_origin)
    assert torch.equal(ours, by_reference(xyz * 0.1, offsets, 64, skip_near_origin=skip_near_origin))


@pytest.mark.parametrize("num_samples", [1, 2, 32, 33, 100])  # from 33 on points are sorted into boxes
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 255, 256, 257, 513, 4097, 50_000])  # a box holds 256, a group 16 boxes
def test_equals_reference_at_every_size(n, num_samples):
    xyz, offsets = ragged([n], seed=n)
    assert torch.equal(farthest_point_sample(xyz, offsets, num_samples), by_reference(xyz, offsets, num_samples))


@pytest.mark.parametrize("name", hostile())
@pytest.mark.parametrize(("n", "num_samples"), [(60, 48), (60, 60), (6000, 20), (6000, 300)])
def test_equals_reference_on_hostile_clouds(name, n, num_samples):
    xyz, offsets = hostile(n)[name], offsets_of([n])
    assert torch.equal(farthest_point_sample(xyz, offsets, num_samples), by_reference(xyz, offsets, num_samples))


@pytest.mark.parametrize("far", [-1.0, 1.0])
def test_equals_reference_where_most_points_share_one_place(far):
    """No median splits such a cloud: the common place lies at one end of every box."""
    xyz, offsets = ragged([3000])
    xyz = xyz.abs().neg() * far
    xyz[torch.arange(3000) % 10 != 0] = torch.zeros(3)
    assert torch.equal(farthest_point_sample(xyz, offsets, 400), by_reference(xyz, offsets, 400))


def test_equals_reference_on_a_line_at_random():
    """In one dimension the farthest point of a box lies on its face, where a careless bound shows."""
    xyz, offsets = ragged([20_000])
    xyz[:, 1:] = 0
    assert torch.equal(farthest_point_sample(xyz, offsets, 1000), by_reference(xyz, offsets, 1000))


def test_more_samples_wait_than_a_bucket_holds():
    """Ten places far apart are sampled first, then two points near each of them.

    Each of these 20 comes near one point of a second bucket, whose list has room for 16, and rules it out as the last.
    """
    place = torch.zeros(10, 3)
    place[:, 0] = 100 * 2.0 ** torch.arange(10)
    near = [place + torch.tensor(step) for step in ([-1.0, 8, 0], [-1.0, 0, 8], [-1.0, -4, 0])]
    waiting = [place + torch.tensor(step) for step in ([-2.0, 5, 0], [-2.0, 0, 5])]
    first_bucket = torch.cat([torch.zeros(256 - 40, 3), place, *near])
    xyz = torch.cat([first_bucket, *waiting])
    offsets = offsets_of([len(xyz)])
    chosen = farthest_point_sample(xyz, offsets, 32)
    assert torch.equal(chosen, by_reference(xyz, offsets, 32))
    assert chosen.max() < 256


def test_equals_reference_where_distances_overflow():
    xyz, offsets = ragged([1000])
    xyz = xyz.clamp(-1, 1) * 3e38
    assert torch.equal(farthest_point_sample(xyz, offsets, 100), by_reference(xyz, offsets, 100))


def test_takes_every_point_once():
    xyz, offsets = ragged([2000])
    chosen = farthest_point_sample(xyz, offsets, 2000, start=1234)
    assert torch.equal(chosen, by_reference(xyz, offsets, 2000, start=1234))
    assert torch.equal(chosen.sort().values, torch.arange(2000))


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="hours in plain torch")
def test_coinciding_points_are_no_burden():
    n = 200_000
    xyz = torch.ones(n, 3)
    xyz[n // 2 :] = 2.0
    chosen = farthest_point_sample(xyz, offsets_of([n]), n, start=7)
    assert chosen[:3].tolist() == [7, n // 2, 0]
    assert (chosen[2:] == 0).all()


@given(packed_clouds(), st.integers(0, 20), st.booleans())
def test_equals_reference(clouds, num_samples, skip_near_origin):
    xyz, offsets = clouds
    ours = farthest_point_sample(xyz, offsets, num_samples, skip_near_origin=skip_near_origin)
    assert torch.equal(ours, by_reference(xyz, offsets, num_samples, skip_near_origin=skip_near_origin))


@settings(max_examples=25)
@given(packed_clouds(max_clouds=2, max_points=2500), st.integers(30, 80), st.booleans())
def test_equals_reference_in_boxes(clouds, num_samples, skip_near_origin):
    xyz, offsets = clouds
    ours = farthest_point_sample(xyz, offsets, num_samples, skip_near_origin=skip_near_origin)
    assert torch.equal(ours, by_reference(xyz, offsets, num_samples, skip_near_origin=skip_near_origin))


def test_dense_is_the_equal_length_case():
    dense = torch.randn(4, 50, 3)
    packed = farthest_point_sample(dense.reshape(-1, 3), offsets_of([50] * 4), 8).view(4, 8)
    alone = torch.stack([farthest_point_sample(cloud, offsets_of([50]), 8) for cloud in dense])
    assert torch.equal(packed, alone + 50 * torch.arange(4)[:, None])


def test_moving_a_cloud_does_not_change_its_samples():
    xyz = torch.randint(-50, 50, (200, 3)).float()  # whole numbers: a shift and a turn by 90 degrees are exact
    turned = xyz[:, [1, 0, 2]] * torch.tensor([-1.0, 1, 1]) + torch.tensor([100.0, -30, 7])
    offsets = offsets_of([200])
    assert torch.equal(farthest_point_sample(xyz, offsets, 50), farthest_point_sample(turned, offsets, 50))


def test_opcheck():
    xyz, offsets = ragged()
    clouds = len(RAGGED_SIZES)
    starts = torch.zeros(clouds, dtype=torch.int64)
    torch.library.opcheck(OPERATOR, (xyz, offsets, torch.arange(clouds + 1) * 5, starts, 5 * clouds, False))


def test_compiles():
    xyz, offsets = ragged()
    compiled = torch.compile(lambda x: farthest_point_sample(x, offsets, 5), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(xyz), farthest_point_sample(xyz, offsets, 5))


def test_autocast_samples_in_float32():
    xyz, offsets = ragged()
    half = xyz.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(farthest_point_sample(half, offsets, 5), farthest_point_sample(half.float(), offsets, 5))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"xyz": torch.rand(2, 10, 3)}, ValueError, "PointBatch.from_dense"),
        ({"xyz": torch.rand(20, 4)}, ValueError, r"packed \(N, 3\)"),
        ({"xyz": torch.rand(20, 3, dtype=torch.float64)}, TypeError, "float32"),
        ({"xyz": [[0.0, 0, 0]]}, TypeError, "torch.Tensor"),
        ({"xyz": torch.rand(20, 3).index_fill(0, torch.tensor(13), torch.nan)}, ValueError, "row 13"),
        ({"xyz": torch.rand(20, 3).index_fill(0, torch.tensor(7), torch.inf)}, ValueError, "row 7"),
        ({"offsets": torch.tensor([0, 10, 20], dtype=torch.int32)}, TypeError, "int64"),
        ({"offsets": torch.tensor([10, 20])}, ValueError, "start with 0"),
        ({"offsets": torch.tensor([0, 15, 10, 20])}, ValueError, "must not decrease"),
        ({"offsets": torch.tensor([0, 10, 19])}, ValueError, "number of rows, 20"),
        ({"num_samples": -1}, ValueError, "at least 0"),
        ({"num_samples": 2.0}, TypeError, "whole number"),
        ({"num_samples": [3]}, ValueError, "each of 2 clouds"),
        ({"start": 10}, ValueError, r"start\[0\] = 10, but cloud 0 has 10 points"),
        ({"start": torch.tensor([0])}, ValueError, "each of 2 clouds"),
    ],
)
def test_bad_input_is_explained(change, error, text):
    good = {"xyz": torch.rand(20, 3), "offsets": torch.tensor([0, 10, 20]), "num_samples": 4}
    with pytest.raises(error, match=text):
        farthest_point_sample(**(good | change))


@pytest.mark.cuda
def test_cuda_equals_cpu():
    batches = [ragged([3000, 0, 1, 700, 20000, 2])] + [(x, offsets_of([6000])) for x in hostile(6000).values()]
    for xyz, offsets in batches:
        for skip in (False, True):
            ours = farthest_point_sample(xyz.cuda(), offsets.cuda(), 48, skip_near_origin=skip)
            assert torch.equal(ours.cpu(), farthest_point_sample(xyz, offsets, 48, skip_near_origin=skip))


@pytest.mark.cuda
def test_cuda_never_chooses_nan():
    xyz, offsets = ragged([500])
    xyz[[3, 77]] = torch.nan
    chosen = farthest_point_sample(xyz.cuda(), offsets.cuda(), 500)
    assert not torch.isin(torch.tensor([3, 77]), chosen.cpu()).any()


@pytest.mark.cuda
@pytest.mark.skipif(_library.missing.get("cuda") is not None, reason="nothing compiled")
def test_cuda_clamps_starts():
    xyz, offsets = ragged([500, 300])
    chosen = farthest_point_sample(xyz.cuda(), offsets.cuda(), 1, start=torch.tensor([-1, 300]).cuda())
    assert chosen.tolist() == [0, 799]


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_same_points_whatever_the_number_of_threads():
    xyz, offsets = ragged([1000, 2000, 500, 3000])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = farthest_point_sample(xyz, offsets, 100)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, farthest_point_sample(xyz, offsets, 100))
