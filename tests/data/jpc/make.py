"""Makes the golden `.jpc` files and `expected.json` with PyJuice itself.

    pip install torch==2.13.0 && pip install pyjuice==2.6.3
    python tests/data/jpc/make.py

PyJuice evaluates on a GPU only. Triton's interpreter runs its kernels on the CPU, and the few
calls that ask for a CUDA device are answered here. It works in float32.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import pyjuice
import torch
from pyjuice.nodes import CircuitNodes, inputs, multiply, summate
from pyjuice.nodes.distributions import Bernoulli, Categorical

torch.cuda.current_device = lambda: 0
torch.cuda.device = lambda *_: contextlib.nullcontext()
torch.Tensor.cuda = lambda self, *_, **__: self

FOLDER = Path(__file__).parent
SEED = 20260
ROWS = 8


def hmm() -> CircuitNodes:
    """Homogeneous: one owner of all emissions, one of all transitions."""
    return pyjuice.structures.HMM(seq_length=6, num_latents=4, num_emits=5)


def hmm_blocks() -> CircuitNodes:
    """Inhomogeneous, in two blocks of two states, block 0 never reaching block 1."""

    def edges(*_: object, num_node_blocks: int, **__: object) -> torch.Tensor:
        pairs = [(i, j) for i in range(num_node_blocks) for j in range(2) if (i, j) != (0, 1)]
        return torch.tensor(pairs if num_node_blocks > 1 else [(0, 0), (0, 1)]).T.contiguous()

    return pyjuice.structures.HMM(
        seq_length=5,
        num_latents=4,
        num_emits=3,
        homogeneous=False,
        block_size=2,
        sum_edge_ids_constructor=edges,
    )


def hclt() -> CircuitNodes:
    """Hidden Chow-Liu tree of six variables with three categories."""
    data = torch.randint(0, 3, (200, 6))
    data[:, 3] = data[:, 0]
    data[:, 5] = (data[:, 1] + data[:, 4]) % 3
    return pyjuice.structures.HCLT(
        data.float(), num_latents=4, block_size=2, input_node_params={"num_cats": 3}
    )


def rat_spn() -> CircuitNodes:
    """Two random binary splits of six variables."""
    return pyjuice.structures.RAT_SPN(
        num_vars=6, num_latents=4, depth=2, num_repetitions=2, input_node_params={"num_cats": 3}
    )


def poon_domingos() -> CircuitNodes:
    """Grid of 2 x 3, sums of four units in blocks of two that each see one of their products."""
    return pyjuice.structures.PD(
        data_shape=(2, 3),
        num_latents=4,
        split_intervals=(1, 1),
        max_prod_block_conns=1,
        block_size=2,
        input_node_params={"num_cats": 2},
        tie_homogeneous_params=False,
    )


def mixture() -> CircuitNodes:
    """Everything rare: single units connected at will, a unit never used, a weight of zero."""
    first = inputs(0, num_node_blocks=3, dist=Bernoulli(), block_size=1)
    second = inputs(1, num_node_blocks=3, dist=Categorical(num_cats=4), block_size=1)
    third = inputs(2, num_node_blocks=3, dist=Categorical(num_cats=3), block_size=1)
    crossed = multiply(first, second, edge_ids=torch.tensor([[0, 0], [0, 1], [2, 1], [2, 2]]))
    pairs = torch.tensor([[0, 0, 1, 1, 2, 2, 2], [3, 0, 1, 2, 0, 2, 3]])
    mask = torch.zeros(7, 1, 1, dtype=torch.bool)
    mask[5] = True
    middle = summate(crossed, num_node_blocks=3, edge_ids=pairs, zero_param_mask=mask, block_size=1)
    straight = multiply(middle, third)
    every = torch.tensor([[i, j] for i in range(3) for j in range(3)])
    return summate(straight, multiply(middle, third, edge_ids=every), num_node_blocks=1)


def expected(root: CircuitNodes, categories: list[int]) -> dict[str, object]:
    """Random rows and what PyJuice says of them."""
    values = torch.stack([torch.randint(0, size, (ROWS,)) for size in categories], dim=1)
    compiled = pyjuice.compile(root)
    for layer in compiled.input_layer_group:
        layer.device = SimpleNamespace(type="cuda", index=0)
    found = compiled(values, force_use_fp32=True)[:, 0]
    return {"values": values.tolist(), "log_likelihood": found.tolist()}


CASES = {
    "hmm": (hmm, [5] * 6),
    "hmm_blocks": (hmm_blocks, [3] * 5),
    "hclt": (hclt, [3] * 6),
    "rat_spn": (rat_spn, [3] * 6),
    "poon_domingos": (poon_domingos, [2] * 6),
    "mixture": (mixture, [2, 4, 3]),
}


def main() -> None:
    """Writes all files."""
    found = {}
    for name, (build, categories) in CASES.items():
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)
        root = build()
        root.init_parameters(visited=set())
        for node in root:
            mask = getattr(node, "_zero_param_mask", None)
            if mask is not None:
                node.set_params(torch.where(mask, 0.0, node.get_params()))
        found[name] = expected(root, categories)
        pyjuice.save(str(FOLDER / f"{name}.jpc"), root)
    (FOLDER / "expected.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
