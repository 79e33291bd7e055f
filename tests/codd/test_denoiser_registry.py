"""Denoisers by kind: read, stored whole or as a reference, and brought back."""

import json
from pathlib import Path

import pytest
import torch

from codd.denoisers.registry import (
    StoredDenoiser,
    load_denoiser,
    restore_denoiser,
    save_denoiser,
    store_denoiser,
)
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import CheckpointError, ConfigError
from tests.support.published import WORDS, word_tokenizer, write_llada, write_masked_lm

CONFIG = TransformerConfig(num_categories=11, max_length=16, width=24, num_layers=2, num_heads=3)
TOKENS = torch.tensor([[5, 6, 7, 4, 4], [8, 4, 5, 6, 9]])
MASK = WORDS.index("[MASK]")


def own() -> TransformerDenoiser:
    return TransformerDenoiser(CONFIG, seed=3).eval()


@torch.no_grad()
def test_an_own_network_comes_back_from_its_folder(tmp_path: Path) -> None:
    save_denoiser(tmp_path, own(), record={"steps": 7})
    again = load_denoiser(tmp_path)
    assert isinstance(again, TransformerDenoiser) and again.config == CONFIG
    assert torch.equal(again(TOKENS).logits, own()(TOKENS).logits)
    assert load_denoiser(tmp_path, dtype=torch.float64).embedding.weight.dtype == torch.float64


def test_an_own_network_is_stored_whole() -> None:
    stored = store_denoiser(own())
    assert json.loads(json.dumps(stored.description))["kind"] == "transformer"
    assert set(stored.tensors) == set(own().state_dict())
    damaged = StoredDenoiser(stored.description, dict(list(stored.tensors.items())[1:]))
    with pytest.raises(CheckpointError, match=r"embedding\.weight: expected shape .*, found None"):
        restore_denoiser(damaged)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_masked_language_model_is_read_as_it_is(tmp_path: Path, family: str) -> None:
    network = write_masked_lm(tmp_path, family)
    denoiser = load_denoiser(tmp_path)
    assert (denoiser.num_categories, denoiser.mask_id, denoiser.hidden_size) == (11, MASK, 16)
    assert denoiser.max_length == (19 if family == "roberta" else 20)
    assert denoiser.end_ids == (3,)
    output = denoiser(TOKENS)
    expected = network(input_ids=TOKENS, output_hidden_states=True)
    others = torch.arange(11) != MASK
    torch.testing.assert_close(output.logits[..., others], expected.logits[..., others])
    torch.testing.assert_close(output.hidden, expected.hidden_states[-1])
    assert bool((output.logits[..., MASK] == -torch.inf).all())
    longest = torch.full((1, denoiser.max_length), 5)
    assert bool(torch.isfinite(denoiser(longest).logits[..., others]).all())


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_padding_of_a_masked_language_model_changes_nothing(tmp_path: Path, family: str) -> None:
    write_masked_lm(tmp_path, family)
    denoiser = load_denoiser(tmp_path)
    padded = torch.cat((torch.full((2, 3), MASK), TOKENS), dim=1)
    valid = torch.arange(8).expand(2, -1) >= 3
    found = denoiser(padded, valid)
    torch.testing.assert_close(found.logits[:, 3:], denoiser(TOKENS).logits)
    torch.testing.assert_close(found.hidden[:, 3:], denoiser(TOKENS).hidden)


@torch.no_grad()
def test_a_published_network_is_stored_as_a_reference(tmp_path: Path) -> None:
    write_masked_lm(tmp_path / "here")
    denoiser = load_denoiser(tmp_path / "here")
    save_denoiser(tmp_path / "stored", denoiser)
    assert sum(file.stat().st_size for file in (tmp_path / "stored").iterdir()) < 2000
    expected = denoiser(TOKENS).logits
    assert torch.equal(load_denoiser(tmp_path / "stored")(TOKENS).logits, expected)
    # Elsewhere it is found when its new place is said.
    (tmp_path / "here").rename(tmp_path / "there")
    stored = store_denoiser(denoiser)
    with pytest.raises(CheckpointError, match="expected a folder or a hub id"):
        restore_denoiser(stored)
    assert torch.equal(restore_denoiser(stored, name=tmp_path / "there")(TOKENS).logits, expected)


def test_another_network_in_the_place_of_a_referenced_one_is_refused(tmp_path: Path) -> None:
    write_masked_lm(tmp_path)
    stored = store_denoiser(load_denoiser(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.5}))
    with pytest.raises(CheckpointError, match=r"fingerprint .*: it is another one, or was changed"):
        restore_denoiser(stored)


def test_changed_weights_are_not_stored_as_a_reference(tmp_path: Path) -> None:
    write_masked_lm(tmp_path)
    denoiser = load_denoiser(tmp_path)
    denoiser.to(torch.float64)  # another type is no other network
    assert denoiser.origin is not None
    with torch.no_grad():
        next(denoiser.parameters()).add_(1.0)
    assert denoiser.origin is None
    with pytest.raises(ConfigError, match="or one as `load_denoiser` read it, found MaskedLM"):
        store_denoiser(denoiser)


def test_what_ends_a_turn_ends_a_text_too(tmp_path: Path) -> None:
    write_llada(tmp_path)
    assert load_denoiser(tmp_path).end_ids == (21,)
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens(["<|eot_id|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    denoiser = load_denoiser(tmp_path)
    assert denoiser.end_ids == (21, len(WORDS))
    assert denoiser.vocabulary is not None and denoiser.vocabulary.size == 29
    assert denoiser.vocabulary.encode("he is <|eot_id|>").tolist() == [5, 6, 11]


def test_what_is_no_denoiser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected the file config\.json, found none"):
        load_denoiser(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object, found list"):
        load_denoiser(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt9"}')
    with pytest.raises(CheckpointError, match=r"expected a network of a kind in .*gpt9"):
        load_denoiser(tmp_path)
    with pytest.raises(CheckpointError, match=r"kind: expected one of .*, found 'gpt9'"):
        load_denoiser(tmp_path, kind="gpt9")
    with pytest.raises(CheckpointError, match="no revision of a folder"):
        load_denoiser(tmp_path, revision="main")
    with pytest.raises(CheckpointError, match="expected a folder or a hub id 'owner/name'"):
        load_denoiser("/nowhere/at/all")
    with pytest.raises(ConfigError, match="found Linear"):
        store_denoiser(torch.nn.Linear(2, 2))
