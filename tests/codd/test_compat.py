"""LLaDA's and Dream's functions on our models, against the published procedures written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.compat.dream import DreamOutput, diffusion_generate
from codd.compat.llada import generate
from codd.denoisers.registry import load_denoiser
from codd.errors import DecodingError
from tests.support.published import write_dream, write_llada


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("llada")
    write_llada(folder)
    return load_denoiser(folder)


@pytest.fixture(scope="module")
def dream(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("dream")
    write_dream(folder)
    return load_denoiser(folder)


def coupled(denoiser: Any, window: int = 6) -> codd.CoupledModel:
    size = denoiser.num_categories
    circuit = pc.CircuitModel(pc.families.hmm(window, 3, size), seed=1)
    vocabulary = codd.PublishedVocabulary(_tokenizer(), size, denoiser.mask_id)
    return codd.CoupledModel.from_parts(denoiser, circuit, vocabulary=vocabulary).eval()


def _tokenizer() -> str:
    from tests.support.published import word_tokenizer

    return str(word_tokenizer().to_str())


def prompts(denoiser: Any, rows: int = 3, length: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(denoiser.num_categories - 1, (rows, length), generator=generator)
    return tokens + (tokens >= denoiser.mask_id)


def published_llada(
    denoiser: Any, prompt: Tensor, steps: int, length: int, block: int, scale: float
) -> Tensor:
    """The published schedule, greedy, row by row: quotas first, then the most confident."""
    mask = denoiser.mask_id
    x = torch.cat((prompt, torch.full((len(prompt), length), mask)), 1)
    given = x != mask
    for b in range(length // block):
        begin, end = prompt.shape[1] + b * block, prompt.shape[1] + (b + 1) * block
        per_block = steps // (length // block)
        quotas = [block // per_block + (i < block % per_block) for i in range(per_block)]
        for quota in quotas:
            logits = denoiser(x).logits.clamp(min=-1e4)  # the mask's is -inf
            if scale:
                blind = denoiser(torch.where(given, mask, x)).logits.clamp(min=-1e4)
                logits = blind + (scale + 1) * (logits - blind)
            best = logits.softmax(-1).max(-1)
            for row in range(len(x)):
                open_places = [i for i in range(begin, end) if x[row, i] == mask]
                open_places.sort(key=lambda i, r=row: -float(best.values[r, i]))
                for i in open_places[:quota]:
                    x[row, i] = best.indices[row, i]
    return x


@pytest.mark.parametrize(
    ("steps", "length", "block", "scale"),
    [(8, 8, 8, 0.0), (3, 8, 8, 0.0), (4, 8, 4, 0.0), (6, 12, 4, 0.5)],
)
@torch.no_grad()
def test_llada_greedy_with_fixed_quotas_is_the_published_schedule(
    llada: Any, steps: int, length: int, block: int, scale: float
) -> None:
    prompt = prompts(llada)
    expected = published_llada(llada, prompt, steps, length, block, scale)
    options = {"steps": steps, "gen_length": length, "block_length": block, "cfg_scale": scale}

    assert torch.equal(generate(llada, prompt, **options), expected)
    off = generate(coupled(llada), prompt, **options, coupling="factorised")
    assert torch.equal(off, expected)
    assert not bool((expected == llada.mask_id).any())


def test_llada_takes_padding_on_the_left(llada: Any) -> None:
    prompt = prompts(llada)
    alone = generate(llada, prompt[:1, 2:], steps=4, gen_length=8)
    mask = torch.ones_like(prompt)
    mask[0, :2] = 0
    both = generate(llada, prompt, mask, steps=4, gen_length=8)

    assert torch.equal(both[0, 2:], alone[0])
    assert torch.equal(both[:, :4], prompt) and both.shape == (3, 12)


def test_llada_is_coupled_unless_told_otherwise(llada: Any) -> None:
    model, prompt = coupled(llada), prompts(llada)
    found = generate(model, prompt, steps=4, gen_length=12, temperature=1.0, seed=3)
    again = model_tokens(model, prompt, found.shape[1] - 4)

    assert torch.equal(found, again)
    torch.manual_seed(0)
    first = generate(model, prompt, steps=4, gen_length=12, temperature=1.0)
    torch.manual_seed(0)
    assert torch.equal(first, generate(model, prompt, steps=4, gen_length=12, temperature=1.0))
    assert not torch.equal(first, generate(model, prompt, steps=4, gen_length=12, temperature=1.0))


def model_tokens(model: codd.CoupledModel, prompt: Tensor, length: int) -> Tensor:
    found = codd.generate(model, list(prompt), length, 4, sampler="latent", seed=3, lookahead=True)
    return torch.stack(found.tokens)


def published_dream(
    denoiser: Any, inputs: Tensor, new: int, steps: int, alg: str, top_k: int | None, eps: float
) -> list[Tensor]:
    """The published procedure at temperature 0, row by row; the sequences after each step."""
    mask = denoiser.mask_id
    x = torch.cat((inputs, torch.full((len(inputs), new), mask)), 1)
    times, history = torch.linspace(1, eps, steps + 1), []
    for step in range(steps):
        logits = denoiser(x).logits
        if top_k is not None:
            least = logits.topk(top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        p = logits.softmax(-1)
        ordered = p.sort(-1, descending=True).values
        confidence = {
            "maskgit_plus": ordered[..., 0],
            "topk_margin": ordered[..., 0] - ordered[..., 1],
            "entropy": (p * (p + 1e-30).log()).sum(-1),
        }[alg]
        count = float((x == mask).sum(1)[0])
        last = step == steps - 1
        number = int(count if last else count * (1 - times[step + 1] / times[step]))
        for row in range(len(x)):
            places = [i for i in range(x.shape[1]) if x[row, i] == mask]
            places.sort(key=lambda i, r=row: -float(confidence[r, i]))
            for i in places[:number]:
                x[row, i] = p[row, i].argmax()
        history.append(x.clone())
    return history


@pytest.mark.parametrize("alg", ["maskgit_plus", "topk_margin", "entropy"])
@pytest.mark.parametrize(("steps", "top_k"), [(3, None), (5, 3), (16, None)])
@torch.no_grad()
def test_dream_greedy_is_the_published_procedure(
    dream: Any, alg: str, steps: int, top_k: int | None
) -> None:
    inputs = prompts(dream)
    expected = published_dream(dream, inputs, 9, steps, alg, top_k, 1e-3)
    options = {"max_new_tokens": 9, "steps": steps, "alg": alg, "top_k": top_k}
    for model in (dream, coupled(dream)):
        found = diffusion_generate(
            model,
            inputs,
            **options,
            coupling="factorised",
            output_history=True,
            return_dict_in_generate=True,
        )
        assert isinstance(found, DreamOutput) and found.history is not None
        assert torch.equal(found.sequences, expected[-1])
        assert all(map(torch.equal, found.history, expected))


@torch.no_grad()
def test_dream_in_random_order_fixes_each_position_with_its_chance(dream: Any) -> None:
    inputs = prompts(dream, rows=200)
    found = diffusion_generate(
        dream,
        inputs,
        max_new_tokens=8,
        steps=4,
        output_history=True,
        return_dict_in_generate=True,
        seed=1,
    )
    assert isinstance(found, DreamOutput) and found.history is not None
    masked = [float((x == dream.mask_id).float().sum(1).mean()) for x in found.history]

    # Linear in time: 6, 4, 2 and none of 8, each with a deviation below 0.1 over 200 rows.
    assert masked == pytest.approx([6, 4, 2, 0], abs=0.35)
    assert masked[-1] == 0
    assert len({tuple((x == dream.mask_id).tolist()) for x in found.history[0]}) > 20


@torch.no_grad()
def test_dream_draws_by_temperature_inside_the_nucleus(dream: Any) -> None:
    inputs = prompts(dream, rows=1).repeat(400, 1)
    drawn = diffusion_generate(
        dream, inputs, max_new_tokens=1, steps=1, temperature=0.7, top_p=0.6, seed=2
    )
    assert isinstance(drawn, Tensor)
    logits = dream(torch.cat((inputs[:1], torch.tensor([[dream.mask_id]])), 1)).logits[0, -1]
    p = (logits / 0.7).softmax(-1)
    ordered, order = p.sort(descending=True)
    kept = order[: int((ordered.cumsum(0) < 0.6).sum()) + 1]
    expected = torch.zeros_like(p)
    expected[kept] = p[kept] / p[kept].sum()
    share = torch.bincount(drawn[:, -1], minlength=len(p)).float() / 400

    assert set(drawn[:, -1].tolist()) <= set(kept.tolist())
    assert float((share - expected).abs().max()) < 0.1


@torch.no_grad()
def test_dream_draws_positions_by_their_scores(dream: Any) -> None:
    inputs = prompts(dream, rows=1).repeat(400, 1)
    # Just under half of four at the first step, rounded down: one.
    options: dict[str, Any] = {"max_new_tokens": 4, "steps": 2, "alg": "maskgit_plus"}
    found = diffusion_generate(
        dream,
        inputs,
        **options,
        alg_temp=0.1,
        seed=4,
        output_history=True,
        return_dict_in_generate=True,
    )
    assert isinstance(found, DreamOutput) and found.history is not None
    canvas = torch.cat((inputs[:1], torch.full((1, 4), dream.mask_id)), 1)
    scores = dream(canvas).logits[0, -4:].softmax(-1).amax(-1)
    share = (found.history[0][:, -4:] != dream.mask_id).float().mean(0)

    torch.testing.assert_close(share, (scores / 0.1).softmax(-1), rtol=0, atol=0.08)


def test_dream_hooks_see_and_change_what_goes_on(dream: Any) -> None:
    inputs, steps, favourite = prompts(dream), [], 3
    favourite += favourite == dream.mask_id

    def tokens_hook(step: int | None, x: Tensor, logits: Tensor | None) -> Tensor:
        steps.append(step)
        assert (logits is None) == (step is None)
        x = x.clone()
        x[:, -1] = 1  # the last one is given
        return x

    def logits_hook(step: int, x: Tensor, logits: Tensor) -> Tensor:
        assert x.shape == logits.shape[:2]
        logits = logits.clone()
        logits[..., favourite] += 1e4
        return logits

    found = diffusion_generate(
        dream,
        inputs,
        max_new_tokens=5,
        steps=2,
        alg="entropy",
        generation_tokens_hook_func=tokens_hook,
        generation_logits_hook_func=logits_hook,
    )
    assert steps == [None, 0, 1]
    assert isinstance(found, Tensor)
    assert found[:, 4:-1].eq(favourite).all() and found[:, -1].eq(1).all()


@pytest.mark.parametrize("coupling", [None, "factorised"])
def test_dream_with_a_circuit_pads_and_covers_by_windows(dream: Any, coupling: str | None) -> None:
    model, inputs = coupled(dream, window=6), prompts(dream)
    mask = torch.ones_like(inputs)
    mask[0, :3] = 0
    found = diffusion_generate(
        model,
        inputs,
        mask,
        max_new_tokens=9,
        steps=3,
        alg="entropy",
        temperature=0.5,
        coupling=coupling,
        seed=1,
    )
    short = diffusion_generate(
        model, inputs[:, :1], max_new_tokens=2, steps=2, coupling=coupling, seed=1
    )
    assert isinstance(found, Tensor) and isinstance(short, Tensor)
    assert torch.equal(found[:, :4], inputs) and not bool((found == dream.mask_id).any())
    assert short.shape == (3, 3) and not bool((short == dream.mask_id).any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1"),
        ({"steps": 0}, "steps: expected at least 1"),
        ({"alg": "best"}, "alg: expected one of"),
        ({"top_p": 0.0}, "top_p: expected 0 < top_p <= 1"),
        ({"eps": 1.0}, "eps: expected 0 < eps < 1"),
        ({"coupling": "copula"}, "a denoiser has no circuit"),
        ({"max_new_tokens": 10**6}, "tokens in all, found 1000004"),
    ],
)
def test_impossible_arguments_of_dream_are_named(
    dream: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DecodingError, match=message):
        diffusion_generate(dream, prompts(dream), **{"max_new_tokens": 4, "steps": 2, **options})


def test_impossible_arguments_of_llada_are_named(llada: Any, tmp_path: Path) -> None:
    prompt = prompts(llada)
    with pytest.raises(DecodingError, match="mask_id: expected the model's"):
        generate(llada, prompt, gen_length=4, mask_id=10**6)
    with pytest.raises(DecodingError, match="expected padding on the left"):
        generate(llada, prompt, torch.tensor([[1, 1, 0, 0]] * 3), steps=2, gen_length=4)
    with pytest.raises(DecodingError, match="attention_mask: expected shape"):
        generate(llada, prompt, torch.ones(3, 2), steps=2, gen_length=4)
    with pytest.raises(DecodingError, match="block_length"):
        generate(coupled(llada), prompt, steps=4, gen_length=16, block_length=16)
