"""Morton and Hilbert codes: ours, numpy-hilbert-curve where it is installed, and the plain-torch loops over bits."""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, lidar, peer

# isort: split
import numpy as np
import torch

from pctransformer.ops import hilbert_code, morton_code, reference

BITS = 16


def run(name: str, function, cells: torch.Tensor) -> None:
    operator = reference.OPERATORS[name]
    expected = operator(cells, BITS)
    on_device = cells.to(args.device)
    candidates = {"ours": lambda: function(on_device, BITS), "torch, bit by bit": lambda: operator(on_device, BITS)}
    if name == "hilbert_code" and args.device == "cpu" and (package := peer("hilbert")):
        candidates["numpy-hilbert-curve"] = lambda: package.encode(cells.numpy(), 3, BITS)

    def check(_, result):
        codes = torch.from_numpy(result.astype(np.int64)) if isinstance(result, np.ndarray) else result.cpu()
        return "equal" if torch.equal(codes, expected) else "DIFFERENT"

    bench(f"{name} of {len(cells)} cells", candidates, check)


if __name__ == "__main__":
    print(describe_machine())
    sweep = lidar()
    cells = ((sweep - sweep.amin(0)) / 0.05).int()
    for name, function in {"morton_code": morton_code, "hilbert_code": hilbert_code}.items():
        run(name, function, cells)
