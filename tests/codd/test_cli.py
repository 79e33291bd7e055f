"""Every command end to end on a model that is trained in seconds."""

import argparse
import itertools
import json
import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codd.checkpoint import DESCRIPTION, load_checkpoint, save_checkpoint
from codd.cli import demo
from codd.cli.asked_recipe import recipe_of
from codd.cli.main import main
from codd.cli.presets import PRESETS, fill_in
from codd.cli.recipe import STAGES
from codd.cli.train_arguments import add_arguments
from codd.cli.variants import RECIPES, Variants
from codd.evaluation.gap import GapProtocol, measure_gap
from codd.model import CoupledModel
from codd.training import circuit_loop, coupling_loop, denoiser_loop
from codd.training.corpus import read_text_files
from codd.training.run_state import Outcome
from codd.training.windows import encode_documents, evaluation_windows
from codd.vocabulary import ByteVocabulary
from tests.support.sealed import edit_description

WORDS = [
    *("the", "list", "returns", "value", "object", "name", "file", "error", "class", "method"),
    *("string", "of", "to", "a", "in", "is"),
]
SIZES = [
    *("--min-count", "1"),
    *("--max-length", "16"),
    *("--window", "8"),
    *("--block", "8"),
    *("--width", "16"),
    *("--layers", "1"),
    *("--heads", "2"),
    *("--states", "40"),
    *("--rank", "4"),
    *("--denoiser-steps", "10"),
    *("--denoiser-batch", "4"),
    *("--circuit-steps", "10"),
    *("--circuit-batch", "16"),
    *("--coupling-steps", "10"),
    *("--coupling-batch", "4"),
    *("--threads", "1"),
]

Codd = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    paragraphs = [" ".join(rng.choices(WORDS, k=25)).capitalize() + "." for _ in range(80)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_folder(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "whole"
    assert main(["train", "--out", str(folder), "--corpus", str(text_file), *SIZES]) == 0
    return folder


def test_a_preset_is_what_is_not_given() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for preset, sizes in PRESETS.items():
        args = parser.parse_args(["--out", "run", "--preset", preset, "--states", "7"])
        fill_in(args)
        assert args.states == 7 and args.width == sizes["width"]
        assert recipe_of(args).steps("denoiser") == sizes["denoiser_steps"]
    assert parser.parse_args(["--out", "run"]).preset == "full"


def test_training_says_how_long_it_takes_and_what_it_reached(
    codd: Codd, text_file: Path, tmp_path: Path
) -> None:
    out = codd("train", "--out", tmp_path / "run", "--corpus", text_file, *SIZES)[1]
    assert "denoiser: 10 steps in" in out and "nats a masked token" in out
    assert "about" not in out, "the preset's time is not that of other sizes"


@pytest.fixture
def model_folder(run_folder: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(run_folder / "model", tmp_path / "model"))


@pytest.fixture
def codd(capsys: pytest.CaptureFixture[str]) -> Codd:
    """Runs a command; its exit code, output and error output."""

    def call(*words: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's own
            assert isinstance(stop.code, int)
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def assert_refused(found: tuple[int, str, str], *parts: str) -> None:
    code, _, err = found
    assert code == 2
    assert err.startswith("codd: error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err, err


# --- train


def test_training_writes_a_model_and_how_it_was_made(run_folder: Path, text_file: Path) -> None:
    model = CoupledModel.from_pretrained(run_folder / "model")
    assert (model.max_length, model.window, model.block) == (16, 8, 8)
    assert model.modulator.kind == "latent"
    record = load_checkpoint(run_folder / "model").metadata["record"]
    corpus = read_text_files([text_file], split_paragraphs=True)
    assert record["corpus"] == {"sha256": corpus.sha256, "source": "words.txt"}
    assert record["training"]["circuit"]["num_states"] == 40
    assert set(record["stages"]) == {"denoiser", "circuit", "coupling"}
    assert all(s["steps"] == 10 and s["seconds"] > 0 for s in record["stages"].values())
    assert record["versions"]["torch"] == torch.__version__


def before_each_step(
    stage: str, act: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls `act` with the number of every step that a stage takes, before it takes it."""
    if stage == "circuit":
        real, taken = circuit_loop.sample_windows, itertools.count()

        def sampling(*args: Any) -> torch.Tensor:
            act(next(taken))
            return real(*args)

        monkeypatch.setattr(circuit_loop, "sample_windows", sampling)
        return
    module = {"denoiser": denoiser_loop, "coupling": coupling_loop}[stage]
    optimise = module.optimise

    def optimising(loss_at: Callable[[int], torch.Tensor], *args: Any, **options: Any) -> Outcome:
        def watched(step: int) -> torch.Tensor:
            act(step)
            return loss_at(step)

        return optimise(watched, *args, **options)

    monkeypatch.setattr(module, "optimise", optimising)


def interrupt_at_4(step: int) -> None:
    if step == 4:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_resumes_to_the_same_model(
    stage: str,
    run_folder: Path,
    text_file: Path,
    tmp_path: Path,
    codd: Codd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["train", "--out", tmp_path / "run", "--corpus", text_file, *SIZES]
    with monkeypatch.context() as patch:
        before_each_step(stage, interrupt_at_4, patch)
        code, _, err = codd(*command)
    assert code == 130
    assert err.startswith("codd: interrupted; continue with: codd train --out")
    assert err.endswith(" --resume\n")
    assert load_checkpoint(tmp_path / "run" / stage).metadata["step"] == 5
    assert not (tmp_path / "run" / "model").exists()
    assert codd(*command, "--resume")[0] == 0
    expected = load_checkpoint(run_folder / "model").tensors
    found = load_checkpoint(tmp_path / "run" / "model").tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_stages_can_be_trained_one_by_one(
    run_folder: Path, text_file: Path, tmp_path: Path, codd: Codd
) -> None:
    command = ["train", "--out", tmp_path / "run", "--corpus", text_file, *SIZES, "--stage"]
    assert_refused(codd(*command, "coupling"), "expected the finished denoiser, found none")
    assert codd(*command, "circuit")[0] == 0
    assert codd(*command, "denoiser")[0] == 0
    assert codd(*command, "coupling")[0] == 0
    expected = load_checkpoint(run_folder / "model").tensors
    found = load_checkpoint(tmp_path / "run" / "model").tensors
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_finished_stages_are_not_repeated(
    run_folder: Path, text_file: Path, codd: Codd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeated(step: int) -> None:
        raise AssertionError(f"a finished stage takes step {step}")

    for stage in STAGES:
        before_each_step(stage, repeated, monkeypatch)
    command = ["train", "--out", run_folder, "--corpus", text_file, *SIZES, "--resume"]
    assert codd(*command)[0] == 0


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        (["--modulator", "static"], set()),
        (
            ["--modulator", "static", "--train-circuit", "--dtype", "float32"],
            {"circuit"},
        ),
        (["--modulator", "parametric", "--joint", "--dtype", "float32"], {"denoiser"}),
        (["--modulator", "latent", "--coupling", "product", "--vocabulary", "byte"], set()),
    ],
)
def test_other_kinds_of_model(
    options: list[str], trained: set[str], text_file: Path, tmp_path: Path, codd: Codd
) -> None:
    command = ["train", "--out", tmp_path, "--corpus", text_file, *SIZES, *options]
    assert codd(*command)[0] == 0
    model = CoupledModel.from_pretrained(tmp_path / "model")
    assert model.modulator.kind == options[1]
    assert model.settings.kind == ("product" if "product" in options else "copula")
    circuit = load_checkpoint(tmp_path / "circuit").tensors["best.emission"].exp()
    denoiser = load_checkpoint(tmp_path / "denoiser").tensors["ema.head.bias"]
    rounding = 1e-5 if trained else 1e-2  # float32, float16
    kept = {
        "circuit": torch.allclose(model.circuit.probabilities()["emission"], circuit, rounding),
        "denoiser": torch.allclose(model.denoiser.head.bias, denoiser, rounding),
    }
    assert {part for part, same in kept.items() if not same} == trained
    assert (tmp_path / "coupling").exists() == (options[1] != "static" or bool(trained))


def test_an_earlier_run_is_not_overwritten(run_folder: Path, text_file: Path, codd: Codd) -> None:
    before = {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    command = ["train", "--out", run_folder, "--corpus", text_file, *SIZES]
    assert_refused(codd(*command), str(run_folder), "expected none, found one", "--resume")
    assert_refused(codd(*command, "--stage", "circuit"), "circuit", "--resume")
    assert {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--denoiser-steps", "-5"], ["denoiser: steps", "positive", "-5"]),
        (["--circuit-steps", "-1"], ["circuit: steps", "at least 1", "-1"]),
        (["--coupling-steps", "0"], ["coupling: steps", "positive", "0"]),
        (["--states", "0"], ["num_states", "at least 1", "0"]),
        (["--block", "12"], ["block <= window", "12, 8, 16"]),
        (["--window", "20"], ["window <= max_length", "8, 20, 16"]),
        (["--rank", "0"], ["rank", "at least 1", "0"]),
        (["--width", "18"], ["width", "multiple", "18"]),
        (["--threads", "0"], ["--threads", "at least 1", "0"]),
        (["--min-count", "99999"], ["at least 99999 times", "none"]),
        (["--max-length", "9999"], ["at least one window of 9999", "found"]),
        (["--vocabulary", "bpe", "--vocabulary-size", "9"], ["256", "9"]),
    ],
)
def test_wrong_training_options_are_refused_before_any_work(
    options: list[str], parts: list[str], text_file: Path, tmp_path: Path, codd: Codd
) -> None:
    out = tmp_path / "run"
    command = ["train", "--out", out, "--corpus", text_file, *SIZES, *options]
    assert_refused(codd(*command), *parts)
    assert not out.exists()


def test_a_wrong_corpus_is_refused(text_file: Path, tmp_path: Path, codd: Codd) -> None:
    def train(*sources: Path | str) -> tuple[int, str, str]:
        return codd("train", "--out", tmp_path / "run", *SIZES, "--corpus", *sources)

    empty, lines = tmp_path / "empty.txt", tmp_path / "lines.jsonl"
    empty.write_text("")
    lines.write_text('{"text": "one"}\n{"body": "two"}\n')
    assert_refused(train(tmp_path / "none.txt"), "none.txt", "expected an existing file")
    assert_refused(train(empty), "at least 3 different documents", "found 0")
    assert_refused(train(lines), "line 2", "'text'", "body")
    assert_refused(train(text_file, lines), "one .jsonl file alone", "lines.jsonl")
    assert_refused(train("python", text_file), "'python' alone")


def test_a_folder_that_cannot_be_made_is_refused(
    text_file: Path, tmp_path: Path, codd: Codd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(step: int) -> None:
        raise AssertionError("work was done before the folder was made")

    before_each_step("denoiser", work, monkeypatch)
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    assert_refused(codd("train", "--out", out, "--corpus", text_file, *SIZES), str(out))


def test_a_damaged_checkpoint_is_refused(
    run_folder: Path, text_file: Path, tmp_path: Path, codd: Codd
) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    command = ["train", "--out", run, "--corpus", text_file, *SIZES, "--resume"]
    assert_refused(codd(*command, "--seed", "1"), "training.seed", "expected 1, found 0")
    other = [*command, "--min-count", "500"]
    assert_refused(codd(*other), "another run", "vocabulary")
    tensors = next((run / "circuit").glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-10])
    assert_refused(codd(*command), "circuit", "bytes", "damaged")


# --- generate


def test_generate_continues_every_prompt(run_folder: Path, codd: Codd) -> None:
    command = ["generate", run_folder / "model", "the value", "a", "--seed", "3"]
    code, out, _ = codd(*command)
    assert code == 0
    model = CoupledModel.from_pretrained(run_folder / "model")
    expected = model.generate(["the value", "a"], steps=1, seed=3)
    assert out == "".join(text + "\n" for text in expected)
    assert codd(*command)[1] == out
    assert codd(*command[:-1], "4")[1] != out


def test_generate_takes_every_option(run_folder: Path, codd: Codd) -> None:
    code, out, _ = codd(
        *["generate", run_folder / "model", "the value"],
        *[
            "--tokens",
            "12",
            "--steps",
            "6",
            "--coupling",
            "product",
            "--selection",
            "margin",
            "--sampler",
            "any_order",
        ],
        *[
            "--temperature",
            "0.5",
            "--top-p",
            "0.9",
            "--block",
            "4",
            "--gamma",
            "0.9",
            "--seed",
            "1",
            "--threads",
            "1",
        ],
    )
    assert code == 0
    model = CoupledModel.from_pretrained(run_folder / "model")
    expected = model.generate(
        "the value",
        new_tokens=12,
        steps=6,
        coupling="product",
        selection="margin",
        sampler="any_order",
        temperature=0.5,
        top_p=0.9,
        block_length=4,
        mask_ratio_limit=0.9,
        seed=1,
    )
    assert out == expected[0] + "\n"


def test_compare_shows_both_texts(run_folder: Path, codd: Codd) -> None:
    code, out, _ = codd("generate", run_folder / "model", "[b]the value", "--compare")
    assert code == 0
    model = CoupledModel.from_pretrained(run_folder / "model")
    assert "factorised" in out
    assert "copula" in out
    for coupling in ("factorised", "copula"):
        text = model.generate("[b]the value", steps=1, coupling=coupling)[0]
        assert text.splitlines()[0] in out


def test_html_shows_every_step_of_the_text_that_is_printed(
    run_folder: Path, codd: Codd, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    command = ["generate", run_folder / "model", "the value", "--tokens-per-step", "4", "--seed", 2]
    plain = codd(*command)[1]
    code, out, err = codd(*command, "--html", path)
    assert (code, out) == (0, plain)
    assert f"wrote {path}" in err.replace("\n", "")
    text = path.read_text(encoding="utf-8")
    [data] = re.findall(r'id="data">(.*?)</script>', text, re.S)
    recordings = {each["label"]: each for each in json.loads(data)["recordings"]}
    assert list(recordings) == ["factorised", "copula"]
    assert "the value" + "".join(recordings["copula"]["states"][-1]) + "\n" == plain
    compared = codd(*command, "--html", path, "--compare")[1]
    assert "factorised" in compared and "copula" in compared


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["more", "--html", "a.html"], ["--html", "one prompt, found 2"]),
        (["--html", "."], ["--html", "expected a file"]),
        (["--html", "nowhere/a.html"], ["--html", "folder that exists"]),
        (["--steps", "-1"], ["steps", "expected 1", "found -1"]),
        (["--tokens-per-step", "0"], ["tokens_per_step", "expected 1 to 8", "found 0"]),
        (["--tokens", "10", "--block", "4"], ["divisor of new_tokens = 10", "found 4"]),
        (["--tokens", "-8"], ["new_tokens", "at least 1", "found -8"]),
        (["--block", "32", "--tokens", "32"], ["window, 8", "found 32"]),
        (["--temperature", "0.5"], ["temperature", "'exact'", "found 0.5"]),
        (["--gamma", "2"], ["mask_ratio_limit", "0 to 1", "found 2.0"]),
        (["--compare", "--coupling", "factorised"], ["--compare", "found"]),
    ],
)
def test_wrong_decoding_options_are_refused(
    options: list[str], parts: list[str], run_folder: Path, codd: Codd
) -> None:
    assert_refused(codd("generate", run_folder / "model", "the", *options), *parts)


def test_wrong_models_are_refused(model_folder: Path, tmp_path: Path, codd: Codd) -> None:
    def generate(name: Path | str) -> tuple[int, str, str]:
        return codd("generate", name, "the")

    assert_refused(generate("nowhere"), "no model 'nowhere'", "expected a folder")
    assert_refused(generate(tmp_path), DESCRIPTION, "found none")
    edit_description(model_folder / DESCRIPTION, lambda d: d.update(version=9))
    assert_refused(generate(model_folder), "format and version", "expected one of")


def test_a_truncated_model_is_refused(model_folder: Path, codd: Codd) -> None:
    tensors = next(model_folder.glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:100])
    assert_refused(codd("generate", model_folder, "the"), "expected", "found 100", "damaged")


def test_a_model_of_another_vocabulary_is_refused(model_folder: Path, codd: Codd) -> None:
    def swap(description: dict[str, Any]) -> None:
        characters = description["metadata"]["vocabulary"]["characters"]
        characters[0], characters[1] = characters[1], characters[0]

    edit_description(model_folder / DESCRIPTION, swap)
    assert_refused(codd("generate", model_folder, "the"), "vocabulary has fingerprint", "trained")


def test_a_vocabulary_with_ids_out_of_range_is_refused(model_folder: Path, codd: Codd) -> None:
    checkpoint = load_checkpoint(model_folder)
    size = CoupledModel.from_pretrained(model_folder).num_categories
    metadata = {**checkpoint.metadata, "vocabulary": {"kind": "byte"}}
    metadata["vocabulary_fingerprint"] = ByteVocabulary().fingerprint
    save_checkpoint(model_folder, checkpoint.tensors, metadata)
    refused = codd("generate", model_folder, "the")
    assert_refused(refused, f"the denoiser has {size} categories", "the vocabulary 256")


def test_argparse_errors_exit_with_2(codd: Codd) -> None:
    assert codd("generate")[0] == 2
    assert codd("nonsense")[0] == 2
    assert codd()[0] == 2
    for command in ("train", "generate", "evaluate", "demo"):
        code, out, _ = codd(command, "--help")
        assert code == 0
        assert "default" in out


def test_ctrl_c_exits_with_130(codd: Codd, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(name: str, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CoupledModel, "from_pretrained", stop)
    assert codd("generate", "x", "y") == (130, "", "codd: interrupted\n")


# --- evaluate


def test_evaluate_prints_and_writes_both_measurements(
    run_folder: Path, text_file: Path, tmp_path: Path, codd: Codd
) -> None:
    out = tmp_path / "new" / "results.json"
    code, printed, _ = codd(
        *["evaluate", run_folder / "model", "--corpus", text_file, "--out", out],
        *["--windows", "4", "--few-step-windows", "3", "--threads", "1"],
    )
    assert code == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    exact = {name for name, recipe in RECIPES.items() if recipe.sampler == "exact"}
    assert set(found["gap"]["gain"]) == exact
    assert found["gap"]["protocol"]["windows"] == 4
    cells = found["few_step"]["cells"]
    assert {cell["label"] for cell in cells} == {"factorised", *RECIPES}
    assert {cell["tokens_per_step"] for cell in cells} == {1, 2, 4, 8}
    assert {cell["order"] for cell in cells} == {"random", "low_confidence"}
    corpus = read_text_files([text_file], split_paragraphs=True)
    assert found["corpus"]["sha256"] == corpus.sha256
    for name in (*RECIPES, "sequential", "real text", "wrote"):
        assert name in printed
    for figure in ("results-gap.png", "results-few-step.png"):
        assert (out.parent / figure).read_bytes().startswith(b"\x89PNG")


def test_evaluate_prints_and_writes_curves_instead(
    run_folder: Path, text_file: Path, tmp_path: Path, codd: Codd
) -> None:
    out = tmp_path / "curves.json"
    words = ["evaluate", run_folder / "model", "--corpus", text_file, "--out", out]
    words += ["--few-step-windows", "3", "--split", "valid"]
    code, printed, _ = codd(*words, "--quotas", "entropy_bound=0", "total_correlation=2")
    assert code == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["corpus"]["split"] == "valid"
    families = {cell["family"] for cell in found["quotas"]["cells"]}
    assert families == {
        *("entropy_bound, factorised", "entropy_bound, copula", "total_correlation, copula"),
    }
    assert "total_correlation, copula: " in printed and out.with_suffix(".png").exists()
    code, printed, _ = codd(
        *words, *["--temperatures", "0.5", "1", "--tokens-per-step", "4", "--variants", "copula"]
    )
    assert code == 0
    found = json.loads(out.read_text(encoding="utf-8"))["temperatures"]
    assert {cell["label"] for cell in found["cells"]} == {"factorised", "product", "copula"}
    assert "above factorised and product at equal or higher entropy" in printed
    assert_refused(codd(*words, "--temperatures", "1"), "at least two")
    assert_refused(codd(*words, "--quotas", "best"), "found 'best'")


def test_generate_streams_and_keeps_to_a_pattern(
    model_folder: Path, codd: Codd, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", model_folder, "the ", "a", "--tokens", "8", "--seed", "3"]
    code, plain, _ = codd(*words)
    assert code == 0
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    code, printed, drafts = codd(*words, "--stream")
    monkeypatch.delenv("FORCE_COLOR")
    assert (code, printed) == (0, plain) and "call 1 of at most 1" in drafts
    code, printed, _ = codd(*words, "--constraint", "[a-e]+", "--quota", "joint_entropy=1")
    assert code == 0 and re.fullmatch("the [a-e]{8}\na[a-e]{8}\n", printed)
    code, printed, _ = codd(*words, "--constraint", "(ab|c)*", "--mode", "full", "--steps", "3")
    assert code == 0 and re.fullmatch("the ((ab|c)*)\na((ab|c)*)\n", printed)
    code, _, _ = codd(*words, "--steps", "4", "--stochastic")
    assert code == 0
    assert_refused(codd(*words, "--constraint", "[a-e]{9}"), "no text of 8 tokens")


def test_the_gap_is_measured_on_the_test_split(
    run_folder: Path, text_file: Path, tmp_path: Path, codd: Codd
) -> None:
    out = tmp_path / "results.json"
    codd(
        *["evaluate", run_folder / "model", "--corpus", text_file, "--out", out],
        *["--windows", "9999", "--few-step-windows", "1", "--variants", "copula"],
    )
    model = CoupledModel.from_pretrained(run_folder / "model")
    corpus = read_text_files([text_file], split_paragraphs=True)
    windows = evaluation_windows(encode_documents(corpus.test, model.vocabulary), 16)
    train = encode_documents(corpus.train, model.vocabulary)
    variants = Variants(model, train, ["copula"]).for_gap()
    expected = measure_gap(model, windows, variants, GapProtocol(8))
    found = json.loads(out.read_text(encoding="utf-8"))["gap"]
    assert found["log_likelihood"] == expected.to_json()["log_likelihood"]


def test_wrong_evaluations_are_refused(
    run_folder: Path, text_file: Path, tmp_path: Path, codd: Codd
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("one\n\ntwo words\n\nthree\n\nfour")
    (tmp_path / "file").write_text("")

    def evaluate(*options: Any) -> tuple[int, str, str]:
        words = ["evaluate", run_folder / "model", "--corpus", text_file]
        return codd(*words, "--out", tmp_path / "r.json", "--few-step-windows", "1", *options)

    assert_refused(evaluate("--corpus", short), "at least one window of 16 tokens", "found")
    assert_refused(evaluate("--windows", "0"), "windows", "at least 1", "found 0")
    assert_refused(evaluate("--variants", "magic"), "copula-any-order", "found 'magic'")
    assert_refused(evaluate("--out", tmp_path), "expected a file", str(tmp_path))
    assert_refused(evaluate("--out", tmp_path / "file" / "r.json"), "file: ")
    assert not (tmp_path / "r.json").exists()


def test_controls(run_folder: Path, text_file: Path) -> None:
    model = CoupledModel.from_pretrained(run_folder / "model")
    corpus = read_text_files([text_file], split_paragraphs=True)
    train = encode_documents(corpus.train, model.vocabulary)
    windows = evaluation_windows(encode_documents(corpus.test, model.vocabulary), 16)[:4]
    variants = Variants(model, train).for_gap()
    found = measure_gap(model, windows, variants, GapProtocol(8)).log_likelihoods
    assert not torch.equal(found["shuffled-emissions"], found["copula-static"])
    single = variants["one-state"].model
    assert isinstance(single, CoupledModel)
    share = (train == 5).double().mean().item()
    assert single.circuit.probabilities()["emission"][0, 5].item() == pytest.approx(share, abs=1e-3)
    hidden = windows.scatter(1, torch.arange(8, 16).expand(4, -1), model.mask_id)
    information = single.joint(hidden).mutual_information()
    entropies = torch.diag_embed(information.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(information, entropies, rtol=0, atol=1e-5)
    static = variants["copula-static"].model
    assert isinstance(static, CoupledModel)
    assert static.modulator.kind == "static"
    assert static.circuit is model.circuit
    shuffled = variants["shuffled-emissions"].model
    assert isinstance(shuffled, CoupledModel)
    rows = [m.circuit.probabilities()["emission"] for m in (model, shuffled)]
    assert not torch.equal(rows[0], rows[1])
    torch.testing.assert_close(*(table.sort(dim=0).values for table in rows))
    shared = [m.circuit.probabilities()["transition"] for m in (model, shuffled)]
    torch.testing.assert_close(*shared)


def test_a_model_without_modulator_is_not_compared_with_itself(
    run_folder: Path, text_file: Path
) -> None:
    model = CoupledModel.from_pretrained(run_folder / "model")
    train = model.vocabulary.encode(text_file.read_text())
    static = Variants(model, train, ["copula-static"]).for_gap()["copula-static"].model
    assert isinstance(static, CoupledModel)
    assert not any(name.endswith("-static") for name in Variants(static, train).for_gap())
    assert Variants(model, train).for_few_step().keys() == {"factorised", *RECIPES}


# --- demo


@pytest.fixture
def small_demo(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo on the little text; everything else is as shipped."""
    corpus = read_text_files([text_file], split_paragraphs=True)
    monkeypatch.setattr(demo, "python_documentation", lambda: corpus)


@pytest.mark.usefixtures("small_demo")
def test_demo_shows_measures_and_draws(run_folder: Path, tmp_path: Path, codd: Codd) -> None:
    out = tmp_path / "demo"
    command = ["demo", "--model", run_folder / "model", "--out", out, "--threads", "1"]
    code, printed, _ = codd(*command)
    assert code == 0
    for part in ("factorised", "copula", "real text", "sequential", "standard error", "seconds"):
        assert part in printed
    figures = {"results-gap.png", "results-few-step.png", "dependencies.png"}
    assert {file.name for file in out.iterdir()} == {"results.json", *figures}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {cell["label"] for cell in found["few_step"]["cells"]} == {"factorised", "copula"}
    assert set(found["gap"]["gain"]) == {"copula", "product"}


@pytest.mark.usefixtures("small_demo")
def test_a_wrong_demo_is_refused(tmp_path: Path, codd: Codd) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(codd("demo", "--out", tmp_path / "file"), "file: ", "exists")
    assert (tmp_path / "file").read_text() == "mine"
    assert_refused(codd("demo", "--out", tmp_path, "--model", "nowhere"), "no model 'nowhere'")
