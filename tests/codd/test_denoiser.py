import math

import pytest
import torch
from torch import Tensor

from codd.denoisers.base import Denoiser
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import ConfigError, DenoiserError

CONFIG = TransformerConfig(num_categories=11, max_length=16, width=24, num_layers=2, num_heads=3)


@pytest.fixture
def denoiser() -> TransformerDenoiser:
    return TransformerDenoiser(CONFIG, seed=1).double().eval()


def tokens(batch: int = 3, length: int = 10) -> Tensor:
    return torch.randint(0, 12, (batch, length), generator=torch.Generator().manual_seed(2))


def test_implements_the_protocol(denoiser: TransformerDenoiser) -> None:
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.num_categories, denoiser.mask_id) == (11, 11)
    assert (denoiser.hidden_size, denoiser.max_length) == (24, 16)


def test_shapes_and_types(denoiser: TransformerDenoiser) -> None:
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        output = denoiser.to(dtype)(tokens())
        assert output.logits.shape == (3, 10, 11) and output.logits.dtype == expected
        assert output.hidden.shape == (3, 10, 24) and output.hidden.dtype == expected


def test_logits_are_read_from_the_hidden_states(denoiser: TransformerDenoiser) -> None:
    output = denoiser(tokens())
    torch.testing.assert_close(denoiser.head(output.hidden), output.logits, rtol=0, atol=1e-12)
    assert torch.allclose(output.hidden.mean(-1), torch.zeros(3, 10, dtype=torch.float64))


def reference_logits(model: TransformerDenoiser, ids: Tensor) -> Tensor:
    """One window, position by position, with rotations written as complex numbers."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    length, heads = len(ids), CONFIG.num_heads
    size = CONFIG.width // heads
    x = model.embedding.weight[ids]
    for block in model.blocks:
        h = norm(x, block.attention_norm.weight)
        padded = torch.cat([torch.zeros_like(h[:1]), h, torch.zeros_like(h[:1])])
        taps = block.conv.weight[:, 0, 0]  # (D, 3)
        h = torch.stack([sum(padded[i + k] * taps[:, k] for k in range(3)) for i in range(length)])
        q, k, v = (h @ block.qkv.weight.T).view(length, 3, heads, size).unbind(1)
        mixed = torch.zeros(length, heads, size, dtype=x.dtype)
        rates = 10_000.0 ** (-2 * torch.arange(size // 2, dtype=x.dtype) / size)
        for head in range(heads):
            qc = torch.complex(q[:, head, : size // 2], q[:, head, size // 2 :])
            kc = torch.complex(k[:, head, : size // 2], k[:, head, size // 2 :])
            for i in range(length):
                turns = torch.exp(1j * (i - torch.arange(length))[:, None] * rates)
                scores = (qc[i] * turns * kc.conj()).real.sum(-1) / math.sqrt(size)
                mixed[i, head] = scores.softmax(0) @ v[:, head]
        x = x + mixed.view(length, -1) @ block.attention_out.weight.T
        h = norm(x, block.mlp_norm.weight) @ block.mlp_in.weight.T
        x = x + h.clamp(min=0).square() @ block.mlp_out.weight.T
    return norm(x, model.norm.weight) @ model.head.weight.T + model.head.bias


@torch.no_grad()
def test_agrees_with_a_reference_written_position_by_position(
    denoiser: TransformerDenoiser,
) -> None:
    for parameter in denoiser.parameters():  # norms and biases off their neutral start
        parameter.add_(0.1 * torch.randn_like(parameter))
    ids = tokens(batch=1)
    expected = reference_logits(denoiser, ids[0])
    # The rotation table is kept in float32.
    torch.testing.assert_close(denoiser(ids).logits[0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(denoiser: TransformerDenoiser, side: str) -> None:
    ids = tokens()
    real = slice(4, None) if side == "left" else slice(0, 10)
    padded = torch.full((3, 14), 5)
    padded[:, real] = ids
    mask = torch.zeros(3, 14, dtype=torch.bool)
    mask[:, real] = True
    alone, beside = denoiser(ids), denoiser(padded, mask)
    torch.testing.assert_close(beside.logits[:, real], alone.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(beside.hidden[:, real], alone.hidden, rtol=0, atol=1e-6)


@torch.no_grad()
def test_every_position_sees_both_directions(denoiser: TransformerDenoiser) -> None:
    ids = tokens(batch=1)
    for changed in (0, 9):
        other = ids.clone()
        other[0, changed] = (ids[0, changed] + 1) % 11
        difference = (denoiser(other).logits - denoiser(ids).logits).abs().amax(-1)[0]
        assert torch.all(difference > 1e-9)


def test_all_parameters_receive_gradients(denoiser: TransformerDenoiser) -> None:
    denoiser(tokens()).logits.square().sum().backward()
    silent = [n for n, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_seed_alone_decides_the_initial_weights() -> None:
    torch.manual_seed(0)
    first = TransformerDenoiser(CONFIG, seed=1).state_dict()
    torch.manual_seed(1)
    again = TransformerDenoiser(CONFIG, seed=1).state_dict()
    other = TransformerDenoiser(CONFIG, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@torch.no_grad()
def test_an_untrained_network_predicts_almost_evenly() -> None:
    logits = TransformerDenoiser(CONFIG, seed=0)(tokens(8)).logits
    assert float(logits.log_softmax(-1).min()) > math.log(1 / 11) - 4


def test_the_default_network_fits_a_small_file() -> None:
    model = TransformerDenoiser(TransformerConfig(num_categories=100))
    assert 2 * sum(p.numel() for p in model.parameters()) <= 7_000_000


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(4, dtype=torch.int64), r"int64 of shape \(B, L\)"),
        (torch.zeros(1, 4), "found torch.float32"),
        (torch.zeros(1, 17, dtype=torch.int64), "1 to 16 positions, found 17"),
        (torch.zeros(1, 0, dtype=torch.int64), "1 to 16 positions, found 0"),
        (torch.tensor([[0, 12]]), r"ids in \[0, 11\].*found 0 to 12"),
        (torch.tensor([[-1, 3]]), "found -1 to 3"),
    ],
)
def test_wrong_tokens_are_refused(denoiser: TransformerDenoiser, ids: Tensor, message: str) -> None:
    with pytest.raises(DenoiserError, match=message):
        denoiser(ids)


def test_a_wrong_attention_mask_is_refused(denoiser: TransformerDenoiser) -> None:
    for mask in (torch.ones(3, 9, dtype=torch.bool), torch.ones(3, 10)):
        with pytest.raises(
            DenoiserError, match=r"attention_mask: expected bool of shape \(3, 10\)"
        ):
            denoiser(tokens(), mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers: expected at least 1, found 0"),
        ({"width": 25}, "width: expected a multiple of 2 \\* num_heads = 6, found 25"),
        ({"conv_width": 4}, "conv_width: expected an odd positive number, found 4"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"dropout": 1.0}, "dropout: expected 0 <= dropout < 1, found 1.0"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, float], message: str) -> None:
    fields = {"num_categories": 11, "width": 24, "num_heads": 3, **change}
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**fields)  # type: ignore[arg-type]
