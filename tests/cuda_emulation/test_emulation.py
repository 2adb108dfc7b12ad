"""The emulation itself: it computes what CUDA computes, and it catches the mistakes it promises to catch."""

import pytest
import torch

from tests.cuda_emulation import build
from tests.cuda_emulation.conftest import SCHEDULES

VALUES = torch.randint(1, 50, (64,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def probes():
    if (reason := build.missing()) is not None:
        pytest.skip(reason)
    return build.Emulation("_probes", [build.HERE / "probes.cu"], "pctransformer_probes")


@pytest.fixture(params=SCHEDULES)
def run(probes, request):
    probes.schedule(*SCHEDULES[request.param])
    return lambda name: getattr(probes.operators, name)(VALUES)


def test_shared_memory_and_barriers(run):
    assert torch.equal(run("reverse"), VALUES.flip(0))
    assert torch.equal(run("sum_tree"), VALUES.sum().expand(64))
    assert torch.equal(run("early_return"), torch.where(torch.arange(64) < 48, VALUES[47], 0))


def test_shuffles(run):
    x, lane, warp = VALUES, torch.arange(64) % 32, torch.arange(64) // 32 * 32
    within_8 = x[warp + lane // 8 * 8 + (lane + 1) % 8]
    up = x[warp + torch.where(lane < 3, lane, lane - 3)]
    down_within_16 = x[warp + torch.where(lane % 16 + 3 >= 16, lane, lane + 3)]
    crossed = x[warp + (lane ^ 5)]
    assert torch.equal(run("shuffles"), ((within_8 * 100 + up) * 100 + down_within_16) * 100 + crossed)


def test_votes(run):
    odd = VALUES % 2
    warps = odd.view(2, 32).sum(1).repeat_interleave(32)
    expected = (100 * warps + odd.sum()) * 100 + 10
    expected[:16] = 10 * expected[:16] + int(odd[:16].all())
    assert torch.equal(run("votes"), 10 * expected + 1)


def test_bits(run):
    def bits(x):
        digits = f"{x:032b}"
        first, leading = digits[::-1].index("1") + 1, digits.index("1")
        return first + 100 * leading + 10_000 * (64 - digits.count("1")) + 1_000_000 * int(digits[:25:-1], 2)

    assert run("bits").tolist() == [bits(x) for x in VALUES.tolist()]


def test_atomics(run):
    expected = VALUES.sum() + 10_000 * VALUES.min() + 100_000 * VALUES.max() + 100_000_000 * 32
    assert torch.equal(run("atomics"), expected.expand(64))


def test_three_dimensions(run):
    assert torch.equal(run("places"), torch.arange(64))


def test_missing_barrier_shows(run):
    assert not torch.equal(run("missing_barrier"), VALUES.flip(0))
    assert not torch.equal(run("missing_syncwarp"), VALUES.view(32, 2).flip(1).reshape(64))


def test_missing_second_barrier_shows_in_some_order(probes):
    right = []
    for schedule in SCHEDULES.values():
        probes.schedule(*schedule)
        right.append(torch.equal(probes.operators.missing_second_barrier(VALUES), VALUES.flip(0)))
    assert not all(right)


def test_uninitialised_shared_memory_shows(run):
    assert not torch.equal(run("uninitialised"), VALUES.sum().expand(64))


def test_order_of_blocks_shows_in_some_order(probes):
    probes.schedule("forward")
    assert torch.equal(probes.operators.blocks_in_a_chain(VALUES), torch.arange(64))
    probes.schedule("backward")
    assert not torch.equal(probes.operators.blocks_in_a_chain(VALUES), torch.arange(64))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("barrier_in_a_branch", r"barrier_in_a_branch, block \(0, 0, 0\): deadlock: .*__syncthreads .*__syncwarp"),
        ("two_barriers", "wait at different barriers: .*thread 32"),
        ("absent_lanes", "deadlock: thread 0 waits at a shuffle .*lanes 0xffffffff; thread 16 has returned"),
        ("mask_without_itself", "mask does not name its own lane: .*lanes 0xffff"),
        ("shuffle_from_outside", "shuffle from lane 20, which the mask does not name"),
        ("past_the_end", "past the end of its 512 bytes of dynamic shared memory"),
        ("behind_a_tensor", "written in front of or behind a tensor of 512 bytes"),
        ("in_front_of_a_tensor", "written in front of or behind a tensor of 512 bytes"),
        ("past_an_array", r"an index is outside of its array \(probes.cu:\d+\)"),
        ("not_aligned", r"an address that its type is not aligned to \(probes.cu:\d+\)"),
        ("copied_not_aligned", r"an address that its type is not aligned to \(probes.cu:\d+\)"),
        ("product_of_int32", r"a signed number overflows \(probes.cu:\d+\)"),
        ("number_too_large", r"a floating number does not fit into the integer it becomes \(probes.cu:\d+\)"),
        ("shift_too_far", r"a shift by more bits than there are \(probes.cu:\d+\)"),
        ("nothing", "emulated nothing: launch of nothing: 0 x 1 x 1 blocks"),
    ],
)
def test_mistakes_are_reported(run, name, text):
    with pytest.raises(RuntimeError, match=text):
        run(name)
    assert torch.equal(run("reverse"), VALUES.flip(0))  # and the next kernel runs as if nothing had happened
