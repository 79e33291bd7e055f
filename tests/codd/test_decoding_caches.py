"""Key-value caches while decoding: exact under a block-causal mask, and really used."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pcircuits as pc
from codd.decoding.calls import CACHES
from codd.decoding.loop import Generation, generate, infill
from codd.denoisers.base import DenoiserOutput
from codd.denoisers.key_values import KeyValueCache, Span
from codd.denoisers.llama import LlamaConfig
from codd.denoisers.native import NativeConfig, NativeDenoiser
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import DecodingError, DenoiserError
from codd.model import CoupledModel
from codd.modulators.static import StaticModulator
from codd.vocabulary import CharacterVocabulary

SIZE, WINDOW, BLOCK = 6, 6, 4
# As a file gives them: equal to the names in the code, and not the same objects.
CACHED = [cache for cache in json.loads(json.dumps(CACHES)) if cache != "none"]
PROMPTS = [torch.tensor(row) for row in ([0, 1, 2], [3], [5, 4, 3, 2, 1, 0, 1])]
DENOISERS = ("transformer", "native", "shifted")


def denoiser_of(kind: str, block: int | None, max_length: int = 32) -> nn.Module:
    if kind == "transformer":
        config = TransformerConfig(
            SIZE, max_length, width=16, num_layers=3, num_heads=2, block_length=block
        )
        network: nn.Module = TransformerDenoiser(config)
    else:
        shape = LlamaConfig(SIZE, 16, 3, 4, 2, 24, max_length, embedding_rows=8, block_length=block)
        network = NativeDenoiser(NativeConfig(shape, SIZE, shifted=kind == "shifted"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            weight.normal_(centre, 0.4, generator=generator)
    return network.double().eval()


def model_of(kind: str, block: int | None, max_length: int = 32) -> CoupledModel:
    circuit = pc.CircuitModel(pc.families.hmm(WINDOW, 3, SIZE), seed=0).double()
    return CoupledModel(
        denoiser_of(kind, block, max_length),
        circuit,
        StaticModulator(circuit.plan),
        CharacterVocabulary((*"abcde", "\ufffd")),
        block_length=BLOCK,
    )


def decoded(model: CoupledModel, cache: str, **options: Any) -> Generation:
    arguments = {"new_tokens": 12, "steps": 9, "sampler": "any_order", "log_probs": True, **options}
    return generate(model, PROMPTS, cache=cache, **arguments)


OPTIONS: dict[str, dict[str, Any]] = {
    "blocks": {},
    "lookahead": {"lookahead": True},
    "guidance": {"guidance": 0.5},
    "adaptive": {"steps": None, "quota": "threshold=0.3"},
    "ends": {"steps": None, "tokens_per_step": 1, "end_id": 2},
    "full": {"mode": "full", "steps": 6},
    "long-prompts-slide": {"new_tokens": 28, "steps": 14},
}


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_under_a_block_causal_mask_no_cache_changes_a_token(kind: str, options: str) -> None:
    model = model_of(kind, BLOCK)
    expected = decoded(model, "none", **OPTIONS[options])
    for cache in CACHED:
        found = decoded(model, cache, **OPTIONS[options])
        assert torch.equal(found.completions, expected.completions), cache
        assert torch.equal(found.fixed_at, expected.fixed_at), cache
        # Recorded in float32; a token that happens to stay the same is not enough.
        torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("cache", CACHED)
def test_a_network_that_sees_all_is_approximated(kind: str, cache: str) -> None:
    """Each cache differs from none somewhere, and not where each block has a single step."""
    model = model_of(kind, None)
    one_step_a_block = {"steps": 3}
    if cache != "block":  # which keeps finished blocks, so it differs there too
        exact, found = (decoded(model, each, **one_step_a_block) for each in ("none", cache))
        assert torch.equal(found.completions, exact.completions)
    stale = {"steps": 12, "temperature": 0.0, "lookahead": True, "coupling": "factorised"}
    exact, found = (decoded(model, each, **stale) for each in ("none", cache))
    assert exact.log_probs is not None and found.log_probs is not None
    assert not torch.equal(exact.log_probs, found.log_probs)


SPANS = {
    # Prompt of 4, two blocks of 4 with two steps each, all masks in sight.
    "prefix": [(0, 12), (4, 12), (0, 12), (8, 12)],
    "dual": [(0, 12), (4, 8), (0, 12), (8, 12)],
    "block": [(0, 12), (4, 8), (4, 12), (8, 12)],
}


@pytest.mark.parametrize("cache", CACHED)
def test_a_cache_computes_what_it_says(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, spans = model_of("transformer", None), []
    whole = model.denoise_span

    def watched(
        tokens: Tensor, mask: Tensor | None, *, cache: KeyValueCache, span: Span | None = None
    ) -> DenoiserOutput:
        spans.append((0, tokens.shape[1]) if span is None else tuple(span))
        return whole(tokens, mask, cache=cache, span=span)

    monkeypatch.setattr(model, "denoise_span", watched)
    generate(model, [torch.tensor([0, 1, 2, 3])], 8, 4, cache=cache, lookahead=True)
    assert spans == SPANS[cache]


def test_lookahead_shows_the_masks_of_later_blocks() -> None:
    model = model_of("native", None)
    tokens = torch.tensor([[0, 1, 2, 3] + [model.mask_id] * 8])
    with torch.no_grad():
        expected = model.denoise(tokens).logits[:, 4:8].log_softmax(-1)
    found = generate(
        model,
        [tokens[0, :4]],
        8,
        2,
        lookahead=True,
        coupling="factorised",
        temperature=0.0,
        sampler="any_order",
        log_probs=True,
    )
    assert found.log_probs is not None
    best = expected.max(dim=-1)
    assert torch.equal(found.completions[:, :4], best.indices)
    torch.testing.assert_close(found.log_probs[:, :4], best.values.to(found.log_probs.dtype))


class Plain(nn.Module):
    """A denoiser without spans."""

    num_categories = mask_id = SIZE
    hidden_size, max_length = 4, 32

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        shape = tokens.shape
        return DenoiserOutput(torch.zeros(*shape, SIZE), torch.zeros(*shape, self.hidden_size))


def test_impossible_caches_are_refused() -> None:
    with pytest.raises(DecodingError, match="cache: expected one of none, prefix, dual, block"):
        decoded(model_of("native", None), "both")
    model = model_of("native", None)
    model.denoiser = Plain()
    for cache in CACHED:
        with pytest.raises(DecodingError, match="'none' with a denoiser that computes no spans"):
            decoded(model, cache)
    assert decoded(model, json.loads('"none"'), steps=3).denoiser_calls == 3
    holes = torch.full((model.window,), model.mask_id)
    with pytest.raises(DecodingError, match="'none' with a denoiser that computes no spans"):
        infill(model, [holes], 1, cache="prefix")


def test_impossible_spans_are_refused() -> None:
    network, tokens = denoiser_of("native", None), torch.tensor([[0, 1, 2, 3]])
    with pytest.raises(DenoiserError, match="span: expected 0 <= start < stop <= 4, found 2 and 5"):
        network(tokens, span=Span(2, 5), cache=KeyValueCache())
    with pytest.raises(DenoiserError, match="start of at most 0, the positions that the cache"):
        network(tokens, span=Span(2, 4), cache=KeyValueCache())
    with pytest.raises(DenoiserError, match="start of at most 0"):
        network(tokens, span=Span(2, 4))
