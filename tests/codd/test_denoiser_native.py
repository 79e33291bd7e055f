"""LLaDA and Dream, read natively, against transformers' own Llama and Qwen2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codd.denoisers.key_values import KeyValueCache, Span
from codd.denoisers.native import NativeDenoiser
from codd.denoisers.registry import load_denoiser, restore_denoiser, store_denoiser
from codd.denoisers.weights import PublishedTensors
from codd.errors import CheckpointError
from tests.support.published import DREAM, LLADA, full_attention, write_dream, write_llada

Writer = Callable[..., Any]
INDEX = "model.safetensors.index.json"
# transformers' Llama puts a bias on the way out of attention but on none of its heads.
LLADA_SHAPES: dict[str, dict[str, Any]] = {
    "as-published": {},
    "grouped": {"n_kv_heads": 2},
    "one-kv-head": {"n_kv_heads": 1},
    "tied": {"weight_tying": True},
    "low-theta": {"rope_theta": 10_000.0, "rms_norm_eps": 1e-3},
}
DREAM_SHAPES: dict[str, dict[str, Any]] = {
    "as-published": {},
    "one-kv-head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "low-theta": {"rope_theta": 10_000.0},
}


def tokens(vocabulary: int, batch: int = 3, length: int = 17) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, vocabulary, (batch, length), generator=generator)


def native(folder: Path, dtype: torch.dtype | None = None) -> NativeDenoiser:
    denoiser = load_denoiser(folder, dtype=dtype)
    assert isinstance(denoiser, NativeDenoiser)
    return denoiser


def not_mask(denoiser: NativeDenoiser) -> Tensor:
    return torch.arange(denoiser.num_categories) != denoiser.mask_id


@torch.no_grad()
@pytest.mark.parametrize("shape", LLADA_SHAPES)
def test_llada_agrees_with_llama_under_a_full_mask(tmp_path: Path, shape: str) -> None:
    oracle = write_llada(tmp_path, **LLADA_SHAPES[shape])
    denoiser, ids = native(tmp_path), tokens(29)
    logits, hidden = full_attention(oracle, ids)
    output = denoiser(ids)
    kept = not_mask(denoiser)
    assert output.logits.shape == (3, 17, 29)
    torch.testing.assert_close(
        output.logits[..., kept], logits[..., :29][..., kept], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(output.hidden, hidden, rtol=0, atol=1e-5)
    assert bool((output.logits[..., LLADA["mask_token_id"]] == -torch.inf).all())


@torch.no_grad()
@pytest.mark.parametrize("shape", DREAM_SHAPES)
def test_dream_agrees_with_qwen2_moved_to_the_right(tmp_path: Path, shape: str) -> None:
    oracle = write_dream(tmp_path, **DREAM_SHAPES[shape])
    denoiser, ids = native(tmp_path), tokens(31)
    output = denoiser(ids)
    for found, expected, columns in (
        (output.logits, full_attention(oracle, ids)[0], not_mask(denoiser)),
        (output.hidden, full_attention(oracle, ids)[1], slice(None)),
    ):
        found, expected = found[..., columns], expected[..., columns]
        torch.testing.assert_close(found[:, 1:], expected[:, :-1], rtol=0, atol=1e-5)
        torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=0, atol=1e-5)


def test_what_the_configuration_says_is_what_the_denoiser_says(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    write_dream(tmp_path / "dream")
    llada, dream = native(tmp_path / "llada"), native(tmp_path / "dream")
    assert (llada.num_categories, llada.mask_id, llada.end_ids) == (29, 26, (21,))
    assert (dream.num_categories, dream.mask_id, dream.end_ids) == (31, 27, (22,))
    assert (llada.hidden_size, llada.max_length) == (24, 64)
    assert dream.config.shifted and not llada.config.shifted
    assert not any(parameter.requires_grad for parameter in llada.parameters())


@torch.no_grad()
def test_biases_everywhere_agree_with_a_formula(tmp_path: Path) -> None:
    """LLaDA's `include_bias`, which transformers' Llama cannot express for the head."""
    write_llada(tmp_path)
    _add_biases(tmp_path)
    plain, biased = native(tmp_path / "plain"), native(tmp_path / "biased")
    ids = tokens(29)
    assert float((plain(ids).hidden - biased(ids).hidden).abs().max()) > 1e-3
    block, h = biased.network.blocks[0], torch.randn(2, 5, 24)
    got = block.mlp_norm(h)
    expected = block.gate.weight @ got.mT + block.gate.bias[:, None]
    torch.testing.assert_close(block.gate(got).mT, expected)
    hidden = biased(ids).hidden
    kept = not_mask(biased)
    by_hand = (hidden @ biased.network.head.weight.T + biased.network.head.bias)[..., :29]
    torch.testing.assert_close(biased(ids).logits[..., kept], by_hand[..., kept])


def _add_biases(folder: Path) -> None:
    """Two single-file copies: with biases of zero and of random values."""
    weights: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
    linear = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
    for kind in ("plain", "biased"):
        torch.manual_seed(1)
        biases = {
            name.replace(".weight", ".bias"): torch.randn(len(weight)) * (kind == "biased")
            for name, weight in weights.items()
            if name.split(".")[-2] in linear
        }
        (folder / kind).mkdir()
        save_file({**weights, **biases}, folder / kind / "model.safetensors")
        config = {**LLADA, "include_bias": True}
        (folder / kind / "config.json").write_text(json.dumps(config))


@torch.no_grad()
def test_scaled_logits_are_divided_by_the_root_of_the_width(tmp_path: Path) -> None:
    write_llada(tmp_path / "plain")
    write_llada(tmp_path / "scaled", scale_logits=True)
    ids = tokens(29)
    plain, scaled = (native(tmp_path / kind)(ids).logits for kind in ("plain", "scaled"))
    torch.testing.assert_close(scaled, plain / 24**0.5)


@torch.no_grad()
@pytest.mark.parametrize("write", [write_llada, write_dream])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(tmp_path: Path, write: Writer, side: str) -> None:
    write(tmp_path)
    denoiser, ids = native(tmp_path, torch.float64), tokens(29, length=10)
    real = slice(4, None) if side == "left" else slice(0, 10)
    padded = torch.full((3, 14), 5)
    padded[:, real] = ids
    valid = torch.zeros(3, 14, dtype=torch.bool)
    valid[:, real] = True
    alone, beside = denoiser(ids), denoiser(padded, valid)
    # Rotary angles are kept in float32.
    torch.testing.assert_close(beside.logits[:, real], alone.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(beside.hidden[:, real], alone.hidden, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("write", [write_llada, write_dream])
def test_a_span_of_a_fresh_cache_is_what_the_whole_says(tmp_path: Path, write: Writer) -> None:
    write(tmp_path)
    denoiser, ids = native(tmp_path, torch.float64), tokens(29)
    cache = KeyValueCache()
    whole = denoiser(ids, cache=cache)
    assert cache.length == 17
    cache.recording = False
    for start, stop in ((0, 17), (0, 4), (5, 9), (12, 17), (16, 17)):
        part = denoiser(ids, span=Span(start, stop), cache=cache)
        expected = whole.logits[:, start:stop]
        torch.testing.assert_close(part.logits, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(part.hidden, whole.hidden[:, start:stop], rtol=0, atol=1e-10)
    chosen = torch.tensor([2, 0])
    part = denoiser(ids[chosen], span=Span(5, 9), cache=cache.rows(chosen))
    torch.testing.assert_close(part.logits, whole.logits[chosen, 5:9], rtol=0, atol=1e-10)


@torch.no_grad()
def test_half_precision_is_near_and_its_output_is_float32(tmp_path: Path) -> None:
    write_llada(tmp_path)
    half, ids = native(tmp_path, torch.bfloat16), tokens(29)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    found, exact = half(ids), native(tmp_path)(ids)
    assert found.logits.dtype == found.hidden.dtype == torch.float32
    total_variation = (found.logits.softmax(-1) - exact.logits.softmax(-1)).abs().sum(-1) / 2
    assert float(total_variation.mean()) < 0.02


@torch.no_grad()
def test_a_native_network_is_stored_by_reference_or_whole(tmp_path: Path) -> None:
    write_dream(tmp_path)
    denoiser, ids = native(tmp_path), tokens(31)
    by_reference = store_denoiser(denoiser)
    assert by_reference.description["origin"]["kind"] == "dream" and not by_reference.tensors
    expected = denoiser(ids).logits
    assert torch.equal(restore_denoiser(by_reference)(ids).logits, expected)
    own = NativeDenoiser(denoiser.config)
    own.load_state_dict(denoiser.state_dict())
    whole = store_denoiser(own)
    assert json.loads(json.dumps(whole.description))["kind"] == "native"
    again = restore_denoiser(whole)
    assert isinstance(again, NativeDenoiser) and again.config == denoiser.config
    assert torch.equal(again(ids).logits, expected)


@pytest.mark.parametrize("write", [write_llada, write_dream])
def test_no_code_of_the_folder_is_run(tmp_path: Path, write: Writer) -> None:
    write(tmp_path, auto_map={"AutoModel": "modeling_evil.Evil"})
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit('remote code ran')")
    native(tmp_path)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a path out of the folder": (
        lambda folder: edit(
            folder / INDEX, lambda index: index["weight_map"].update(x="../other.safetensors")
        ),
        r"expected the name of a safetensors file, found '\.\./other",
    ),
    "an absolute path": (
        lambda folder: edit(
            folder / INDEX, lambda index: index["weight_map"].update(x="/etc/x.safetensors")
        ),
        "expected the name of a safetensors file, found '/etc",
    ),
    "another kind of file": (
        lambda folder: edit(folder / INDEX, lambda index: index["weight_map"].update(x="w.bin")),
        r"expected the name of a safetensors file, found 'w\.bin'",
    ),
    "a file that is not there": (
        lambda folder: (folder / "model-00001-of-00010.safetensors").unlink(),
        r"expected the file model-00001-of-00010\.safetensors, found none",
    ),
    "a tensor that is not where the index says": (
        lambda folder: edit(
            folder / INDEX,
            lambda index: index["weight_map"].update(x="model-00001-of-00010.safetensors"),
        ),
        "expected tensor 'x' in model-00001-of-00010.safetensors, found none",
    ),
    "a tensor too few": (
        lambda folder: edit(
            folder / INDEX, lambda index: index["weight_map"].pop("model.transformer.ln_f.weight")
        ),
        r"found 1 missing: model\.transformer\.ln_f\.weight",
    ),
    "an index of another form": (
        lambda folder: (folder / INDEX).write_text('{"weight_map": ["a"]}'),
        "expected 'weight_map' from tensors to files, found list",
    ),
    "an index that is no JSON": (
        lambda folder: (folder / INDEX).write_text("[" * 100_000),
        "expected JSON, found",
    ),
    "an absurd number of blocks": (
        lambda folder: edit(folder / "config.json", lambda config: config.update(n_layers=10**9)),
        r"found 1 missing: model\.transformer\.blocks\.999999999\.q_proj\.weight",
    ),
    "an absurd width": (
        lambda folder: edit(
            folder / "config.json", lambda config: config.update(d_model=24 * 10**12)
        ),
        "expected shape .* found|config.json: ",
    ),
    "a width of another type": (
        lambda folder: edit(folder / "config.json", lambda config: config.update(d_model="24")),
        "width: expected an integer of at least 1, found '24'",
    ),
    "a mask that is no id": (
        lambda folder: edit(
            folder / "config.json", lambda config: config.update(mask_token_id="mask")
        ),
        "config.json does not say what it should: TypeError",
    ),
    "architectures that are no names": (
        lambda folder: edit(
            folder / "config.json", lambda config: config.update(model_type="x", architectures=5.0)
        ),
        "config.json does not say what it should: TypeError",
    ),
    "an end that is no id": (
        lambda folder: edit(
            folder / "config.json", lambda config: config.update(eos_token_id=[1, float("inf")])
        ),
        "eos_token_id: expected ids, found inf",
    ),
    "a block too many in the files": (
        lambda folder: edit(folder / "config.json", lambda config: config.update(n_layers=2)),
        r"found 9 unknown: model\.transformer\.blocks\.2\.",
    ),
    "another shape": (
        lambda folder: edit(
            folder / "config.json", lambda config: config.update(mlp_hidden_size=41)
        ),
        r"ff_proj\.weight: expected shape \(41, 24\), found \(40, 24\)",
    ),
    "integers for weights": (
        lambda folder: _rewrite(folder, lambda tensor: tensor.to(torch.int32)),
        r"expected floating point, found torch\.int32",
    ),
    "a file cut short": (
        lambda folder: _cut(folder / "model-00002-of-00010.safetensors"),
        "expected safetensors, found",
    ),
    "an activation it does not have": (
        lambda folder: edit(
            folder / "config.json", lambda config: config.update(activation_type="gelu")
        ),
        "activation_type: expected 'silu', found 'gelu'",
    ),
}


def _rewrite(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    for file in folder.glob("*.safetensors"):
        tensors = {name: change(tensor) for name, tensor in load_file(file).items()}
        save_file(tensors, file)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_folders_are_refused(tmp_path: Path, what: str) -> None:
    write_llada(tmp_path / "llada")
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    change, message = HOSTILE[what]
    change(tmp_path / "llada")
    with pytest.raises(CheckpointError, match=message):
        load_denoiser(tmp_path / "llada")


def test_dream_with_scaled_rotations_is_refused(tmp_path: Path) -> None:
    write_dream(tmp_path)
    edit(
        tmp_path / "config.json",
        lambda config: config.update(rope_scaling={"rope_type": "yarn", "factor": 4.0}),
    )
    with pytest.raises(CheckpointError, match="rope_scaling: expected None, found"):
        load_denoiser(tmp_path)
    assert DREAM["rope_scaling"] is None


def test_loading_takes_the_memory_of_the_weights_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("expected /proc, to see the memory of this process")

    def used() -> int:
        line = next(x for x in status.read_text().splitlines() if x.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    sizes = {"d_model": 512, "n_heads": 8, "n_kv_heads": 8, "mlp_hidden_size": 2048, "n_layers": 4}
    write_llada(tmp_path, **sizes)
    at_reads: list[int] = []
    read = PublishedTensors.read

    def watched(self: PublishedTensors, name: str) -> Tensor:
        at_reads.append(used())
        return read(self, name)

    monkeypatch.setattr(PublishedTensors, "read", watched)
    before = used()
    denoiser = native(tmp_path, torch.float64)
    weights = sum(w.numel() * w.element_size() for w in denoiser.parameters())
    assert weights > 100_000_000
    assert max(*at_reads, used()) - before < 1.2 * weights
