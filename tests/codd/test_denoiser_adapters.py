"""MDLM and BD3-LM, modules of one's own, devices, types and few bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pcircuits as pc
from codd.decoding.loop import generate
from codd.denoisers.mdlm import MDLMConfig, MDLMDenoiser
from codd.denoisers.placement import fill_devices, part_names
from codd.denoisers.registry import load_denoiser, restore_denoiser, store_denoiser
from codd.denoisers.wrapped import wrap
from codd.errors import CheckpointError, ConfigError, DenoiserError
from codd.model import CoupledModel
from codd.modulators.static import StaticModulator
from codd.vocabulary import ByteVocabulary
from tests.support.published import write_llada, write_masked_lm, write_sharded

SHAPE = MDLMConfig(14, 13, 16, 2, 2, 6, 24)
MDLM = {
    "model_type": "mdlm",
    "vocab_size": 14,
    "hidden_dim": 16,
    "n_blocks": 2,
    "n_heads": 2,
    "cond_dim": 6,
    "model_length": 24,
    "dropout": 0.1,
    "time_conditioning": False,
}


def published_mdlm(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors under the published names."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (14, 16),
        "sigma_map.mlp.0.weight": (6, 256),
        "sigma_map.mlp.0.bias": (6,),
        "sigma_map.mlp.2.weight": (6, 6),
        "sigma_map.mlp.2.bias": (6,),
        "output_layer.norm_final.weight": (16,),
        "output_layer.linear.weight": (14, 16),
        "output_layer.linear.bias": (14,),
        "output_layer.adaLN_modulation.weight": (32, 6),
        "output_layer.adaLN_modulation.bias": (32,),
        "rotary_emb.inv_freq": (4,),
    }
    for i in range(2):
        shapes |= {
            f"blocks.{i}.norm1.weight": (16,),
            f"blocks.{i}.attn_qkv.weight": (48, 16),
            f"blocks.{i}.attn_out.weight": (16, 16),
            f"blocks.{i}.norm2.weight": (16,),
            f"blocks.{i}.mlp.0.weight": (64, 16),
            f"blocks.{i}.mlp.0.bias": (64,),
            f"blocks.{i}.mlp.2.weight": (16, 64),
            f"blocks.{i}.mlp.2.bias": (16,),
            f"blocks.{i}.adaLN_modulation.weight": (96, 6),
            f"blocks.{i}.adaLN_modulation.bias": (96,),
        }
    return {
        f"backbone.{name}": torch.randn(shape, generator=generator) * 0.3
        for name, shape in shapes.items()
    }


def reference_mdlm(weights: dict[str, Tensor], ids: Tensor, sigma: float, block: int) -> Tensor:
    """Logits of one row, position by position, rotations as complex numbers."""
    w = {name.removeprefix("backbone."): tensor.double() for name, tensor in weights.items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1).double())

    rates = torch.exp(-math.log(10_000) * torch.arange(128).double() / 128)
    waves = torch.cat(((sigma * rates).cos(), (sigma * rates).sin()))
    c = linear(F.silu(linear(waves, "sigma_map.mlp.0")), "sigma_map.mlp.2")
    c = c * torch.sigmoid(c)
    x = w["vocab_embed.embedding"][ids]
    length = len(ids)
    for i in range(2):
        own = f"blocks.{i}"
        six = linear(c, f"{own}.adaLN_modulation").view(6, 16)
        h = norm(x, w[f"{own}.norm1.weight"]) * (1 + six[1]) + six[0]
        q, k, v = linear(h, f"{own}.attn_qkv").view(length, 3, 2, 8).unbind(1)
        turns = torch.arange(length).double()[:, None] * 10_000.0 ** (-torch.arange(4).double() / 4)
        mixed = torch.zeros(length, 2, 8, dtype=torch.float64)
        for head in range(2):
            qc, kc = (
                torch.complex(each[:, head, :4], each[:, head, 4:]) * torch.exp(1j * turns)
                for each in (q, k)
            )
            for at in range(length):
                seen = min(length, (at // block + 1) * block)
                scores = (qc[at] * kc[:seen].conj()).real.sum(-1) / math.sqrt(8)
                mixed[at, head] = scores.softmax(0) @ v[:seen, head]
        x = x + six[2] * linear(mixed.view(length, 16), f"{own}.attn_out")
        h = norm(x, w[f"{own}.norm2.weight"]) * (1 + six[4]) + six[3]
        wide = linear(h, f"{own}.mlp.0")
        cube = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
        x = x + six[5] * linear(0.5 * wide * (1 + cube.tanh()), f"{own}.mlp.2")
    shift, scale = linear(c, "output_layer.adaLN_modulation").view(2, 16)
    h = norm(x, w["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return linear(h, "output_layer.linear")


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "block"),
    [
        ({}, 99),
        ({"time_conditioning": True}, 99),
        ({"model_type": "bd3lm", "block_size": 4, "adaln": True, "causal": False}, 4),
    ],
    ids=["mdlm", "told-the-noise", "bd3lm"],
)
def test_mdlm_agrees_with_a_reference(tmp_path: Path, changes: dict[str, Any], block: int) -> None:
    weights = published_mdlm()
    write_sharded(tmp_path, weights, {**MDLM, **changes})
    denoiser = load_denoiser(tmp_path, dtype=torch.float64)
    assert (denoiser.num_categories, denoiser.mask_id, denoiser.max_length) == (13, 13, 24)
    ids = torch.tensor([[3, 13, 13, 7, 0, 13, 12, 1, 13, 5]])
    told = changes.get("time_conditioning", False)
    sigma = -math.log(1 - (1 - 1e-3) * 0.4) if told else 0.0  # four of ten are masked
    expected = reference_mdlm(weights, ids[0], sigma, block)
    found = denoiser(ids)
    assert found.logits.shape == (1, 10, 13) and found.hidden.shape == (1, 10, 16)
    # The rotation table and the waves are float32.
    torch.testing.assert_close(found.logits[0], expected[:, :13], rtol=0, atol=1e-5)
    padded = torch.cat((torch.full((1, 3), 13), ids), dim=1)
    beside = denoiser(padded, torch.arange(13)[None] >= 3)
    torch.testing.assert_close(beside.logits[:, 3:], found.logits, rtol=0, atol=1e-5)


def test_mdlm_of_another_form_is_refused(tmp_path: Path) -> None:
    write_sharded(tmp_path, published_mdlm(), {**MDLM, "n_blocks": 10**9})
    with pytest.raises(CheckpointError, match=r"missing: backbone\.blocks\.999999999"):
        load_denoiser(tmp_path)
    write_sharded(tmp_path, published_mdlm(), {**MDLM, "causal": True})
    with pytest.raises(CheckpointError, match="causal: expected False, found True"):
        load_denoiser(tmp_path)
    write_sharded(tmp_path, published_mdlm(), MDLM)
    with pytest.raises(CheckpointError, match="device_map: expected one device"):
        load_denoiser(tmp_path, device_map="auto")


@torch.no_grad()
def test_mdlm_of_one_s_own_is_stored_whole() -> None:
    own = MDLMDenoiser(SHAPE).eval()
    again = restore_denoiser(store_denoiser(own))
    ids = torch.tensor([[3, 13, 5]])
    assert torch.equal(again(ids).logits, own(ids).logits)


class Mine(nn.Module):
    """Says of each position what it read there."""

    def __init__(self, with_hidden: bool) -> None:
        super().__init__()
        self.with_hidden = with_hidden

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Any:
        logits = F.one_hot(tokens, 6).double()
        return (logits, logits[..., :3]) if self.with_hidden else logits


def test_a_module_of_one_s_own_is_a_denoiser() -> None:
    ids = torch.tensor([[1, 5, 2]])
    inside = wrap(Mine(True), num_categories=6, mask_id=5, max_length=9, hidden_size=3)
    expected = F.one_hot(ids, 6).double()
    expected[..., 5] = -torch.inf
    assert torch.equal(inside(ids).logits, expected)
    assert inside(ids).hidden.shape == (1, 3, 3)
    moved = wrap(Mine(False), num_categories=6, mask_id=5, max_length=9, shifted=True)
    assert torch.equal(moved(ids).logits, expected[:, [0, 0, 1]])
    assert torch.equal(moved(ids).hidden, torch.zeros(1, 3, 1, dtype=torch.float64))
    valid = torch.tensor([[False, True, True]])
    assert torch.equal(moved(ids, valid).logits[:, 1:], expected[:, [1, 1]])
    wrong = wrap(Mine(False), num_categories=7, mask_id=5, max_length=9)
    with pytest.raises(DenoiserError, match=r"Mine: expected logits of shape \(1, 3, 7\), found"):
        wrong(ids)
    with pytest.raises(ConfigError, match="mask_id: expected 0 to 6, found 7"):
        wrap(Mine(False), num_categories=6, mask_id=7, max_length=9)


SETTINGS: dict[str, dict[str, Any]] = {
    "copula": {"coupling": "copula"},
    "product": {"coupling": "product", "sampler": "latent"},
    "guidance": {"guidance": 1.5},
    "entropy": {"selection": "entropy", "coupling": "factorised"},
    "klass": {"steps": None, "quota": "klass=0.5,0.1"},
    "full": {"mode": "full", "sampler": "any_order"},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("mask_id", [256, 77])
def test_a_mask_inside_the_vocabulary_is_never_written(settings: str, mask_id: int) -> None:
    """The mask may be the id after the last category, or one of them that nothing predicts."""
    torch.manual_seed(0)
    head = nn.Linear(4, 256)

    class Flat(nn.Module):
        def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            biased: Tensor = head(torch.ones(*tokens.shape, 4))
            biased[..., 77] += 50.0  # without the rule it would be written everywhere
            return biased

    denoiser = wrap(Flat(), num_categories=256, mask_id=mask_id, max_length=24)
    circuit = pc.CircuitModel(pc.families.hmm(8, 4, 256), seed=0)
    model = CoupledModel(
        denoiser, circuit, StaticModulator(circuit.plan), ByteVocabulary(), block_length=8
    )
    prompts = [torch.tensor([70, 71]), torch.tensor([72])]
    options = {"steps": 8, **SETTINGS[settings]}
    found = generate(model, prompts, 16, log_probs=True, **options)
    assert bool((found.completions != mask_id).all())
    assert bool((found.completions < 256).all()) and bool((found.fixed_at >= 0).all())
    assert found.log_probs is not None and bool(torch.isfinite(found.log_probs).all())
    if mask_id == 256:
        assert float((found.completions == 77).double().mean()) > 0.9


def test_parts_fill_devices_in_turn() -> None:
    first, second, cpu = torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cpu")
    found = fill_devices([4, 3, 3, 3, 9, 1], [(first, 7), (second, 6)])
    assert found == [first, first, second, second, cpu, cpu]
    assert fill_devices([4, 3], []) == [cpu, cpu]
    assert fill_devices([4, 3], [(first, 2), (second, 9)]) == [second, second]


@torch.no_grad()
def test_parts_lie_where_the_map_says_and_states_follow(tmp_path: Path) -> None:
    write_llada(tmp_path)
    denoiser: Any = load_denoiser(tmp_path, device_map={"": "cpu", "head": "meta"})
    assert part_names(denoiser.network)[:2] == ["embedding", "blocks.0"]
    kinds = {name: w.device.type for name, w in denoiser.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == "meta"} == {"network.head.weight"}
    came: list[Tensor] = []
    denoiser.network.head.register_forward_hook(lambda module, given, found: came.extend(given))
    # The head's output exists nowhere, so it cannot come back: everything before was moved.
    with pytest.raises(NotImplementedError, match="meta"):
        denoiser(torch.tensor([[1, 2]]))
    assert came[0].device.type == "meta"
    alone: Any = load_denoiser(tmp_path, device_map="cpu", dtype=torch.bfloat16)
    assert {w.dtype for w in alone.parameters()} == {torch.bfloat16}
    for wrong, message in (
        ("nowhere", "expected a device or 'auto', found 'nowhere'"),
        ({"": "cpu", "blocks.9": "cpu"}, r"expected names of parts, .*found 'blocks\.9'"),
        ({"blocks": "cpu"}, "expected a device for 'embedding', found none"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_denoiser(tmp_path, device_map=wrong)


@torch.no_grad()
@pytest.mark.parametrize(("bits", "allowed"), [("8bit", 0.02), ("4bit", 0.15)])
@pytest.mark.filterwarnings("ignore")  # the library's own, of what it finds on this machine
def test_few_bits_are_near_what_they_stand_for(tmp_path: Path, bits: str, allowed: float) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = {"d_model": 64, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 128, "n_layers": 2}
    write_llada(tmp_path, **sizes)
    exact, ids = load_denoiser(tmp_path), torch.arange(12)[None]
    with torch.random.fork_rng():
        found = load_denoiser(tmp_path, quantization=bits)
    block: Any = found.network.blocks[0]  # type: ignore[union-attr]
    assert block.query.weight.dtype in (torch.int8, torch.uint8)
    assert found.network.head.weight.dtype == torch.float32  # type: ignore[union-attr]
    # Layer by layer: a whole random network would blow the rounding up.
    states = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    wanted = exact.network.blocks[0].query(states)  # type: ignore[union-attr]
    error = float((block.query(states) - wanted).norm() / wanted.norm())
    assert 0.0 < error < allowed
    assert bool(torch.isfinite(found(ids).hidden).all())
    with pytest.raises(ConfigError, match="quantization: expected one of 8bit, 4bit, found '3bit'"):
        load_denoiser(tmp_path, quantization="3bit")


def test_few_bits_without_the_library_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llada(tmp_path / "llada")
    write_masked_lm(tmp_path / "bert")
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    for folder in ("llada", "bert"):
        with pytest.raises(ConfigError, match="expected the package 'bitsandbytes', found none"):
            load_denoiser(tmp_path / folder, quantization="4bit")
