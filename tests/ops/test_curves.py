import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pctransformer.ops import _library, hilbert_code, morton_code, reference

CURVES = {"morton_code": morton_code, "hilbert_code": hilbert_code}
each_curve = pytest.mark.parametrize("name", CURVES)


def random_cells(n: int, bits: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1 << bits, (n, 3), generator=torch.Generator().manual_seed(seed))


def all_cells(bits: int) -> torch.Tensor:
    side = torch.arange(1 << bits)
    return torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3)


def test_morton_by_hand():
    """x = 1, y = 2, z = 4: bit 2 from z, bit 1 from y, bit 0 from x; x leads each triple."""
    assert morton_code(torch.tensor([[1, 2, 4]]), bits=3).tolist() == [0b001_010_100]
    assert morton_code(all_cells(1), bits=1).tolist() == list(range(8))


def test_hilbert_by_hand():
    """The curve through the eight octants: along z, y, back along z, then x, and the same backwards."""
    path = [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0]]
    assert hilbert_code(torch.tensor(path), bits=1).tolist() == list(range(8))


def test_codes_of_point_transformer_v3():
    """Codes that the published implementation of Point Transformer V3 gives (serialization/, depth=16)."""
    cells = torch.tensor([[1, 2, 3], [5, 0, 7], [100, 200, 300], [65535, 0, 65535], [12345, 54321, 33333]])
    assert morton_code(cells).tolist() == [29, 333, 22710080, 201053554793325, 116962831366215]
    assert hilbert_code(cells).tolist() == [36, 270, 124266514, 241264265751990, 87863660903127]


@each_curve
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_visits_every_cell_once(name, bits):
    assert torch.equal(CURVES[name](all_cells(bits), bits).sort().values, torch.arange(8**bits))


@pytest.mark.parametrize("bits", [3, 4])
def test_consecutive_hilbert_cells_share_a_face(bits):
    cells = all_cells(bits)
    path = cells[hilbert_code(cells, bits).argsort()]
    assert (path.diff(dim=0).abs().sum(1) == 1).all()
    last = 2**bits - 1
    assert path[[0, -1]].tolist() == [[0, 0, 0], [last, 0, 0]]


@each_curve
@pytest.mark.parametrize("bits", [2, 9, 21])
def test_highest_bits_choose_the_block(name, bits):
    """Cells of one cube of the curve's recursion are consecutive: their codes agree above three bits per level."""
    corner = random_cells(1, bits - 1, seed=bits) * 2
    codes = CURVES[name](corner + all_cells(1), bits)
    assert (codes >> 3).unique().numel() == 1
    assert torch.equal((codes & 7).sort().values, torch.arange(8))


@each_curve
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("bits", [1, 7, 16, 20, 21])
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 40_000])
def test_equals_reference(name, dtype, bits, n):
    cells = random_cells(n, bits).to(dtype)
    code = CURVES[name](cells, bits)
    assert code.dtype == torch.int64
    assert torch.equal(code, reference.OPERATORS[name](cells, bits))


@each_curve
@given(data=st.data())
def test_equals_reference_on_any_cells(name, data):
    bits = data.draw(st.integers(1, 21))
    cell = st.tuples(*[st.integers(0, (1 << bits) - 1)] * 3)
    cells = torch.tensor(data.draw(st.lists(cell, min_size=1, max_size=30)))
    assert torch.equal(CURVES[name](cells, bits), reference.OPERATORS[name](cells, bits))


@each_curve
def test_extreme_cells_fill_63_bits(name):
    last = (1 << 21) - 1
    corners = all_cells(1) * last
    codes = CURVES[name](corners, 21)
    assert codes.min() == 0
    assert codes.unique().numel() == 8
    assert codes.max() == (1 << 63) - 1
    assert codes.argmax() == {"morton_code": 7, "hilbert_code": 4}[name]  # the corner where the curve ends


@each_curve
def test_columns_in_any_memory_order(name):
    cells = random_cells(50, 16)
    swapped = cells[:, [1, 0, 2]]
    assert torch.equal(CURVES[name](swapped.t().contiguous().t()), CURVES[name](swapped))


@each_curve
def test_opcheck(name):
    torch.library.opcheck(_library.operator(name), (random_cells(20, 16), 16))


@each_curve
def test_compiles(name):
    cells = random_cells(20, 16)
    compiled = torch.compile(CURVES[name], fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(cells), CURVES[name](cells))


@each_curve
def test_autocast_leaves_cells_alone(name):
    cells = random_cells(20, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(CURVES[name](cells), reference.OPERATORS[name](cells, 16))


@each_curve
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"coordinates": torch.zeros(5, 4, dtype=torch.int64)}, ValueError, r"\(N, 3\).*drop a batch column"),
        ({"coordinates": torch.zeros(3, dtype=torch.int64)}, ValueError, r"\(N, 3\)"),
        ({"coordinates": torch.zeros(5, 3)}, TypeError, "int32 or int64"),
        ({"coordinates": torch.zeros(5, 3, dtype=torch.int16)}, TypeError, "int32 or int64"),
        ({"coordinates": [[0, 0, 0]]}, TypeError, "torch.Tensor"),
        ({"coordinates": torch.tensor([[0, 0, 0], [1, 8, 1]])}, ValueError, r"2\^bits = 8, but row 1 holds"),
        ({"coordinates": torch.tensor([[0, 0, -1]], dtype=torch.int32)}, ValueError, "row 0 holds"),
        ({"coordinates": torch.tensor([[7, 7, 7], [0, 0, 1 << 40]])}, ValueError, "row 1 holds"),
        ({"bits": 0}, ValueError, "between 1 and 21"),
        ({"bits": 22}, ValueError, "between 1 and 21"),
        ({"bits": 3.0}, TypeError, "whole number"),
    ],
)
def test_bad_input_is_explained(name, change, error, text):
    with pytest.raises(error, match=text):
        CURVES[name](**({"coordinates": random_cells(5, 3), "bits": 3} | change))


@each_curve
@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_kernel_checks_what_python_does_not_see(name):
    operator = _library.operator(name)
    for cells, bits in ((torch.zeros(5, 2, dtype=torch.int64), 3), (torch.zeros(5, 3), 3), (random_cells(5, 3), 22)):
        with pytest.raises(RuntimeError, match=name):
            operator(cells, bits)


@each_curve
@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("bits", [1, 16, 21])
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_cuda_equals_cpu(name, dtype, bits, n):
    cells = random_cells(n, bits).to(dtype)
    assert torch.equal(CURVES[name](cells.cuda(), bits).cpu(), CURVES[name](cells, bits))


@each_curve
@pytest.mark.cuda
@pytest.mark.skipif(_library.missing.get("cuda") is not None, reason="nothing compiled")
def test_cuda_counts_only_the_lowest_bits(name):
    cells = torch.tensor([[-1, 9, 1 << 20], [8, 7, 3]])
    assert torch.equal(CURVES[name](cells.cuda(), 3).cpu(), CURVES[name](cells & 7, 3))
