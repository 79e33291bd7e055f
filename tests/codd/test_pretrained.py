"""Coupled models with any denoiser: stored whole, by reference, or handed in; pushed to a hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import codd
import pcircuits as pc
from codd.decoding.texts import read_texts
from codd.denoisers.lora import LoraSettings, add_lora, lora_of, lora_parameters, merge_lora
from codd.denoisers.registry import load_denoiser
from codd.errors import CheckpointError, ConfigError
from tests.codd.test_model import masked_tokens, tiny_model
from tests.codd.test_published import published
from tests.support.published import WORDS, write_masked_lm


class Own(nn.Module):
    """A user's denoiser in a few lines."""

    def __init__(self, num_categories: int = 11, width: int = 6) -> None:
        super().__init__()
        self.num_categories, self.mask_id = num_categories, num_categories
        self.hidden_size, self.max_length = width, 16
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = nn.Embedding(num_categories + 1, width)
            self.head = nn.Linear(width, num_categories)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> codd.DenoiserOutput:
        mixed = self.embedding(tokens)
        hidden = mixed + mixed.mean(1, keepdim=True)
        return codd.DenoiserOutput(self.head(hidden), hidden)


def coupled(denoiser: nn.Module | Path, **options: Any) -> codd.CoupledModel:
    """A denoiser of 11 categories and a circuit over 6 tokens."""
    circuit = pc.CircuitModel(pc.families.hmm(6, 5, 11), seed=2)
    torch.manual_seed(3)
    model = codd.CoupledModel.from_parts(denoiser, circuit, modulator="latent", **options)
    with torch.no_grad():
        for parameter in model.modulator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def joint_of(model: codd.CoupledModel) -> Tensor:
    tokens = torch.arange(10).add(1).clamp(max=10)[None].repeat(2, 1)
    tokens[tokens == model.mask_id] = 0
    tokens[0, 5::2] = tokens[1, 7:] = model.mask_id
    return model.joint(tokens).marginals()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks") / "bert"
    write_masked_lm(folder)
    return folder


def test_a_published_denoiser_is_stored_by_reference_with_its_adapters(
    bert: Path, tmp_path: Path
) -> None:
    model = coupled(bert)
    add_lora(model.denoiser, LoraSettings(2))
    with torch.no_grad():
        for parameter in lora_parameters(model.denoiser).values():
            parameter.add_(0.1)
    model.save_pretrained(tmp_path, record={"by": "test"})
    back = codd.CoupledModel.from_pretrained(tmp_path)

    torch.testing.assert_close(joint_of(back), joint_of(model))
    assert back.vocabulary == model.vocabulary and back.record == {"by": "test"}
    assert lora_of(back.denoiser) == LoraSettings(2)
    written = json.loads((tmp_path / "checkpoint.json").read_text())["metadata"]
    assert written["format_version"] == 2 and written["vocabulary"] is None
    assert written["denoiser"]["origin"]["fingerprint"]
    names = codd.CoupledModel.from_pretrained(tmp_path).denoiser.state_dict()
    stored = {n for n in _tensors(tmp_path) if n.startswith("denoiser.")}
    assert len(stored) == len(lora_parameters(model.denoiser)) < len(names)


def _tensors(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(next(folder.glob("*.safetensors")), framework="pt") as file:
        return list(file.keys())


def test_a_moved_denoiser_is_found_and_another_one_refused(bert: Path, tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    shutil.copytree(bert, here)
    write_masked_lm(other, "roberta")
    model = coupled(here)
    model.save_pretrained(tmp_path / "model")
    shutil.move(here, tmp_path / "there")

    with pytest.raises(CheckpointError, match="here"):
        codd.CoupledModel.from_pretrained(tmp_path / "model")
    back = codd.CoupledModel.from_pretrained(tmp_path / "model", denoiser=tmp_path / "there")
    torch.testing.assert_close(joint_of(back), joint_of(model))
    with pytest.raises(CheckpointError, match="expected the network of fingerprint"):
        codd.CoupledModel.from_pretrained(tmp_path / "model", denoiser=other)


def test_changed_weights_are_not_stored_as_a_reference(bert: Path, tmp_path: Path) -> None:
    model = coupled(bert)
    add_lora(model.denoiser, LoraSettings(2))
    model.save_pretrained(tmp_path)
    merge_lora(model.denoiser)

    with pytest.raises(ConfigError, match="as `load_denoiser` read it"):
        model.save_pretrained(tmp_path)


def test_another_tokenizer_in_the_folder_is_refused(bert: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(bert, here)
    coupled(here).save_pretrained(tmp_path / "model")
    file = here / "tokenizer.json"
    file.write_text(file.read_text().replace('"york"', '"work"'))

    with pytest.raises(CheckpointError, match="the vocabulary has fingerprint"):
        codd.CoupledModel.from_pretrained(tmp_path / "model")


def test_a_users_own_module_is_handed_in(tmp_path: Path) -> None:
    vocabulary = codd.CharacterVocabulary.from_text(["abcdefghij"])
    model = coupled(Own(), vocabulary=vocabulary)
    model.save_pretrained(tmp_path)
    back = codd.CoupledModel.from_pretrained(tmp_path, denoiser=Own())

    torch.testing.assert_close(joint_of(back), joint_of(model))
    assert back.vocabulary == vocabulary
    with pytest.raises(CheckpointError, match="module 'Own' of its user, which is not stored"):
        codd.CoupledModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"hidden_size: .* denoiser of 6; .* has 8"):
        codd.CoupledModel.from_pretrained(tmp_path, denoiser=Own(width=8))
    with pytest.raises(CheckpointError, match=r"num_categories: .* denoiser of 11; .* has 12"):
        codd.CoupledModel.from_pretrained(tmp_path, denoiser=Own(12))


def test_a_small_transformer_is_stored_whole_with_its_adapters(tmp_path: Path) -> None:
    model = tiny_model()
    add_lora(model.denoiser, LoraSettings(2, targets=("qkv",)))
    with torch.no_grad():
        for parameter in lora_parameters(model.denoiser).values():
            parameter.add_(0.1)
    model.save_pretrained(tmp_path)
    back = codd.CoupledModel.from_pretrained(tmp_path)
    tokens = masked_tokens(model)

    torch.testing.assert_close(back.joint(tokens).marginals(), model.joint(tokens).marginals())


def test_a_model_is_laid_out_as_asked_for(tmp_path: Path, bert: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "own")
    own = codd.CoupledModel.from_pretrained(tmp_path / "own", device_map="meta")
    assert own.device.type == "meta" and all(p.device.type == "meta" for p in own.parameters())
    assert codd.CoupledModel.from_pretrained(tmp_path / "own").device.type == "cpu"
    coupled(bert).save_pretrained(tmp_path / "published")
    found = codd.CoupledModel.from_pretrained(
        tmp_path / "published", dtype=torch.bfloat16, device_map="cpu"
    )
    assert {p.dtype for p in found.denoiser.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in found.circuit.parameters()} == {torch.float32}
    for options, message in (
        ({"quantization": "8bit"}, "quantization: expected none for a denoiser of kind"),
        ({"device_map": {"": "cpu"}}, "device_map: expected one device"),
        ({"device_map": "nowhere"}, "device_map: expected a device or 'auto', found 'nowhere'"),
        ({"denoiser": Own(), "quantization": "4bit"}, "quantization: expected none with a module"),
    ):
        with pytest.raises(CheckpointError, match=message):
            codd.CoupledModel.from_pretrained(tmp_path / "own", **options)


def test_texts_are_encoded_where_the_model_lies() -> None:
    model = tiny_model().to("meta")
    encoded, _ = read_texts(model.vocabulary, 4, ["ab", "a"], None, {}, model.device)
    assert [ids.device.type for ids in encoded] == ["meta", "meta"]


def test_folders_of_version_1_still_load(tmp_path: Path) -> None:
    demo = codd.hub.locate("demo")
    metadata = json.loads((demo / "checkpoint.json").read_text())["metadata"]
    model = codd.CoupledModel.from_pretrained("demo")
    model.save_pretrained(tmp_path, dtype="float16")
    again = codd.CoupledModel.from_pretrained(tmp_path)

    assert "format_version" not in metadata and "width" in metadata["denoiser"]
    tokens = model.vocabulary.encode("Return a list of the names of all files in the")[None]
    tokens = torch.cat((tokens, torch.full((1, 18), model.mask_id)), 1)
    with torch.no_grad():
        found = [each.joint(tokens).marginals() for each in (model, again)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    assert again.record == model.record == metadata["record"]


def test_a_published_circuit_couples_what_it_fits(tmp_path: Path) -> None:
    vocabulary = codd.CharacterVocabulary(("a", "b", "c", "d", "\ufffd"))
    folder = published(tmp_path / "made", "pc_model.jpc", block_length=4)
    model = codd.CoupledModel.from_parts(Own(5), folder, vocabulary=vocabulary)

    assert (model.block, model.settings.kind, model.window) == (4, "product", 6)
    assert len(model.generate("ab", new_tokens=8, steps=4)[0]) == 10
    model.save_pretrained(tmp_path / "model")
    back = codd.CoupledModel.from_pretrained(tmp_path / "model", denoiser=Own(5))
    codd.save_published_circuit(tmp_path / "out", back.circuit)
    values = torch.randint(5, (9, 6))
    torch.testing.assert_close(
        codd.load_published_circuit(tmp_path / "out").circuit.log_likelihood(values),
        codd.load_published_circuit(folder).circuit.log_likelihood(values),
    )
    with pytest.raises(ConfigError, match="the circuit has 5"):
        codd.CoupledModel.from_parts(
            Own(7),
            published(tmp_path / "b", "model.jpc"),
            vocabulary=codd.CharacterVocabulary.from_text(["abcdef"]),
        )
    with pytest.raises(ConfigError, match="for a denoiser with 3; found one with 5"):
        other = published(tmp_path / "c", "pc_model.jpc", mask_id=3)
        codd.CoupledModel.from_parts(Own(5), other, vocabulary=vocabulary)
    with pytest.raises(ConfigError, match="vocabulary: expected one, for Own brings none"):
        codd.CoupledModel.from_parts(Own(5), folder)


class FakeHub:
    """A hub in a folder: what `huggingface_hub.HfApi` and `snapshot_download` do, offline."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[str, Any]] = []

    def api(self, token: str | None = None) -> FakeHub:
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", (repo_id, private, exist_ok)))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, folder_path: Path, repo_id: str, commit_message: str) -> object:
        self.calls.append(("message", commit_message))
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        if not (self.root / repo_id).is_dir():
            raise OSError(f"404: {repo_id}")
        self.calls.append(("download", (revision, tuple(allow_patterns))))
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    import huggingface_hub

    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.download)
    return fake


def test_a_pushed_model_comes_back_and_has_a_card(hub: FakeHub, bert: Path) -> None:
    model = coupled(bert)
    model.record = {"corpus": "twelve words"}
    address = model.push_to_hub("me/words", private=True, token="secret", message="first")
    back = codd.CoupledModel.from_pretrained("me/words", revision="main")

    assert address == "https://hub/me/words/commit/1"
    assert hub.calls[:3] == [
        ("token", "secret"),
        ("create", ("me/words", True, True)),
        ("message", "first"),
    ]
    assert hub.calls[3] == ("download", ("main", ("*.json", "*.safetensors")))
    torch.testing.assert_close(joint_of(back), joint_of(model))
    card = (hub.root / "me/words/README.md").read_text()
    assert card.startswith("---\nlibrary_name: codd\n")
    assert 'from_pretrained("me/words")' in card and "twelve words" in card
    assert model.vocabulary.fingerprint in card and "masked-lm `bert`" in card
    assert str(bert.parent) not in card


def test_a_card_names_the_base_model_and_says_what_is_handed_in(hub: FakeHub, bert: Path) -> None:
    shutil.copytree(bert, hub.root / "lab" / "bert")
    denoiser = load_denoiser("lab/bert")
    coupled(denoiser).push_to_hub("me/one")
    vocabulary = codd.CharacterVocabulary.from_text(["abcdefghij"])
    coupled(Own(), vocabulary=vocabulary).push_to_hub("me/two")

    assert "base_model: lab/bert\n" in (hub.root / "me/one/README.md").read_text()
    assert (
        'from_pretrained("me/two", denoiser=module)' in (hub.root / "me/two/README.md").read_text()
    )


def test_a_circuit_is_fetched_alone(hub: FakeHub) -> None:
    published(hub.root, "model.jpc")
    (hub.root / "lab").mkdir(parents=True)
    published(hub.root / "lab" / "circuit", "model.jpc")
    found = codd.load_published_circuit("lab/circuit")

    assert found.circuit.plan.num_variables == 6
    patterns = ("pc_model.jpc", "model.jpc", "codd_config.json")
    assert hub.calls == [("download", (None, patterns))]


def test_what_the_hub_refuses_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    with pytest.raises(CheckpointError, match="expected a hub id 'owner/name', found 'words'"):
        model.push_to_hub("words")
    with pytest.raises(CheckpointError, match="cannot fetch model 'me/none': 404"):
        codd.CoupledModel.from_pretrained("me/none")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("401: no account")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(CheckpointError, match="cannot push to 'me/words': 401: no account"):
        model.push_to_hub("me/words")
    assert len(WORDS) == 11
