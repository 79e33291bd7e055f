"""`codd convert`: published circuits become models of LLaDA and Dream, and go out again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import codd
import pcircuits as pc
from codd.cli.main import main
from tests.support.published import word_tokenizer, write_dream, write_llada


def network(folder: Path, write: Callable[[Path], Any]) -> Path:
    write(folder)
    (folder / "tokenizer.json").write_text(word_tokenizer().to_str())
    return folder


@pytest.mark.parametrize(("write", "kind"), [(write_llada, "llada"), (write_dream, "dream")])
def test_a_published_circuit_becomes_a_model_and_goes_out_again(
    write: Callable[[Path], Any], kind: str, tmp_path: Path
) -> None:
    folder = network(tmp_path / kind, write)
    denoiser = codd.denoisers.registry.load_denoiser(folder)
    circuit = pc.CircuitModel(pc.families.hmm(6, 4, denoiser.num_categories), seed=1)
    settings = codd.PublishedSettings(
        base_model_type=kind,
        mask_id=denoiser.mask_id,
        vocab_size=denoiser.num_categories,
        block_length=3,
    )
    codd.save_published_circuit(tmp_path / "theirs", circuit, settings)
    made, out = tmp_path / "model", tmp_path / "out"
    words = ["convert", str(tmp_path / "theirs"), str(made), "--denoiser", str(folder)]
    assert main(words) == 0
    assert main(["convert", str(made), str(out)]) == 0
    assert main(["convert", str(made), str(tmp_path / "one.jpc")]) == 0

    model = codd.CoupledModel.from_pretrained(made)
    assert (model.block, model.window, model.settings.kind) == (3, 6, "product")
    assert len(model.generate_tokens("he is", new_tokens=6, steps=3).tokens[0]) == 8
    written = json.loads((out / "codd_config.json").read_text())
    expected = json.loads((tmp_path / "theirs" / "codd_config.json").read_text())
    assert written == {**expected, "base_model_id": str(folder.resolve())}
    values = torch.randint(denoiser.num_categories, (9, 6))
    for path in (out, tmp_path / "one.jpc"):
        again = codd.load_published_circuit(path).circuit
        torch.testing.assert_close(
            again.log_likelihood(values), circuit.log_likelihood(values), rtol=0, atol=1e-5
        )


def test_a_small_models_circuit_goes_out_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "demo", str(tmp_path / "demo.jpc")]) == 0
    assert "the latent modulator is left out" in capsys.readouterr().out
    model = codd.CoupledModel.from_pretrained("demo")
    again = codd.load_published_circuit(tmp_path / "demo.jpc").circuit
    values = torch.randint(model.num_categories, (3, model.window))

    torch.testing.assert_close(
        again.log_likelihood(values), model.circuit.log_likelihood(values), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["DATA/hmm.jpc", "x", "--denoiser", "LLADA"], "the circuit has 5"),
        (["DATA", "x"], "a published circuit is converted with --denoiser"),
        (["demo", "x.jpc", "--coupling", "product"], "--coupling: expected --denoiser"),
        (["demo", "DATA"], "expected nothing there, found something"),
    ],
)
def test_what_cannot_be_converted_is_named(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = network(tmp_path / "llada", write_llada)
    data = Path(__file__).parents[1] / "data" / "jpc"
    named = [w.replace("DATA", str(data)).replace("LLADA", str(folder)) for w in words]
    named = [str(tmp_path / w) if w.startswith("x") else w for w in named]

    assert main(["convert", *named]) == 2
    assert message in capsys.readouterr().err
