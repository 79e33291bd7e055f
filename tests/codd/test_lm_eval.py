"""The evaluation harness: what requests mean, the three questions, and whole runs offline."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import codd
import pcircuits as pc
from codd.denoisers.base import Origin
from codd.errors import EvaluationError
from codd.evaluation.likelihood import LikelihoodOptions, score_continuations
from codd.lm_eval.__main__ import main
from codd.lm_eval.chat import ChatTemplate, read_template
from codd.lm_eval.requests import (
    check_options,
    cut_at,
    encode_pair,
    read_request,
    stop_sequences,
)

ROOT = Path(__file__).resolve().parents[2]
GREEDY = {"until": ["\n"], "max_gen_toks": 10, "do_sample": False}
TEMPLATE = (
    "{% for message in messages %}\n"
    "<{{ message.role }}>{{ message.content }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n<assistant>\n{%- endif %}\n"
)


def small_model() -> codd.CoupledModel:
    vocabulary = codd.CharacterVocabulary.from_text(["abcdefgh .\n"])
    config = codd.TransformerConfig(vocabulary.size, max_length=12, width=16, num_layers=1)
    denoiser = codd.TransformerDenoiser(config, seed=1)
    circuit = pc.CircuitModel(pc.families.hmm(6, 4, vocabulary.size), seed=2)
    head = codd.make_modulator("static", circuit.plan, denoiser.hidden_size)
    return codd.CoupledModel(denoiser, circuit, head, vocabulary, block_length=4).eval()


def harness_model(**options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the harness's own imports
        from codd.lm_eval.harness import CoupledLM
    return CoupledLM(small_model(), **options)


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, pair, i) for i, pair in enumerate(arguments)]


def test_a_task_is_greedy_unless_it_samples_and_the_user_has_the_last_word() -> None:
    greedy = read_request({}, GREEDY, 4)
    assert (greedy.new_tokens, greedy.kept, greedy.until) == (12, 10, ("\n",))
    assert greedy.options == {"sampler": "any_order", "temperature": 0.0, "tokens_per_step": 1}
    asked = {**GREEDY, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    sampled = read_request({"quota": "threshold=0.9"}, asked, 4)
    assert sampled.options == {
        "sampler": "any_order",
        "quota": "threshold=0.9",
        "temperature": 0.7,
        "top_p": 0.9,
    }
    user = read_request({"temperature": 0.2, "gen_length": 8, "num_steps": 2}, asked, 4)
    assert (user.new_tokens, user.kept) == (8, 8)
    assert user.options == {"sampler": "any_order", "temperature": 0.2, "num_steps": 2}
    assert read_request({"sampler": "exact"}, GREEDY, 4).options["temperature"] == 1.0
    assert read_request({"mode": "full"}, GREEDY, 4).new_tokens == 10
    assert read_request({"block_length": 5}, GREEDY, 4).new_tokens == 10
    assert read_request({}, {**GREEDY, "steps": 3}, 4).options["steps"] == 3


def test_options_that_mean_nothing_are_refused() -> None:
    check_options({"remasking": "random", "cfg_scale": 1.0, "klass": 1} and {"threshold": 0.9})
    with pytest.raises(EvaluationError, match=r"stepps: expected one of .*tokens_per_step"):
        check_options({"stepps": 3})
    with pytest.raises(EvaluationError, match="num_beams: expected"):
        read_request({}, {**GREEDY, "num_beams": 4}, 4)
    with pytest.raises(EvaluationError, match="eos_token_id: expected"):
        check_options({"eos_token_id": 3})


def test_stop_texts_become_tokens_only_where_the_vocabulary_has_them() -> None:
    vocabulary = small_model().vocabulary
    found = stop_sequences(["ab", "Ω", "a\n"], vocabulary)
    assert found == [vocabulary.encode(text).tolist() for text in ("ab", "a\n")]


def test_texts_are_cut_before_the_first_stop_text() -> None:
    assert cut_at("one two three", ["three", "two"]) == "one "
    assert cut_at("one", ["two"]) == "one"
    assert cut_at("one", []) == "one"


def test_pairs_are_encoded_as_the_whole_text_is() -> None:
    characters = small_model().vocabulary
    first, second = encode_pair(characters, "ab ", "cd")
    assert (characters.decode(first), characters.decode(second)) == ("ab", " cd")
    merged = codd.BPEVocabulary.from_text(["abababab ab ab"] * 20, size=260)
    first, second = encode_pair(merged, "a", "b")  # "ab" is one token: it cannot be split
    assert len(merged.encode("ab")) == 1
    assert (merged.decode(first), merged.decode(second)) == ("a", "b")


def test_chat_templates_are_rendered_in_a_sandbox(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    messages = [{"role": "user", "content": "abc"}]
    template = read_template(file, None)
    assert template is not None
    assert template.render(messages, True) == "<user>abc\n<assistant>"
    assert template.render(messages, False) == "<user>abc\n"
    with pytest.raises(EvaluationError, match="chat template: no system"):
        ChatTemplate("{{ raise_exception('no system') }}").render(messages, True)
    with pytest.raises(EvaluationError, match="unsafe"):
        ChatTemplate("{{ messages.__class__.__mro__ }}").render(messages, True)
    with pytest.raises(EvaluationError, match="expected a text file"):
        read_template(tmp_path / "none", None)


def test_chat_templates_of_published_networks(tmp_path: Path) -> None:
    """A file of their own or an entry of the tokenizer's configuration, with special tokens."""
    origin = Origin("llada", str(tmp_path), None, "0")
    messages = [{"role": "user", "content": "abc"}]
    assert read_template(None, None) is None
    (tmp_path / "config.json").write_text("{}")
    assert read_template(None, origin) is None
    with pytest.raises(EvaluationError, match=r"expected chat_template.jinja or a template in"):
        read_template(tmp_path, None)
    text = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}"
    for entry in (
        text,
        [{"name": "tools", "template": "no"}, {"name": "default", "template": text}],
    ):
        config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": entry}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        for found in (read_template(None, origin), read_template(tmp_path, None)):
            assert found is not None and found.render(messages, True) == "<s>abc</s>"
    (tmp_path / "chat_template.jinja").write_text("own {{ bos_token }}")
    found = read_template(None, origin)
    assert found is not None and found.render(messages, True) == "own <s>"


def test_generation_keeps_order_and_stops() -> None:
    """Requests of two kinds, in batches of two: each answer is that of the request alone."""
    model = harness_model(batch_size=2, tokens_per_step=2)
    loose = {"until": [], "max_gen_toks": 6}
    texts = ["abc", "a", "fedcba.", "h", "gh gh gh gh gh gh"]
    arguments = [(text, GREEDY if i % 2 else loose) for i, text in enumerate(texts)]
    found = model.generate_until(instances("generate_until", arguments), disable_tqdm=True)
    for (context, asked), text in zip(arguments, found, strict=True):
        alone = model.model.generate(
            context, new_tokens=12, tokens_per_step=2, sampler="any_order", temperature=0.0
        )[0][len(context) :]
        kept = alone[: asked["max_gen_toks"]]
        assert text == (kept.split("\n")[0] if "\n" in asked["until"] else kept)
    info = model.get_model_info()
    assert info["tokens_per_forward"] == 2.0


def test_tokens_per_forward_counts_the_calls_of_each_row() -> None:
    """Eight tokens at four a call are two calls; a row that stops before takes no part after."""
    model = harness_model(batch_size=2, tokens_per_step=4)
    asked = {"until": [], "max_gen_toks": 8}
    model.generate_until(instances("generate_until", [("abc", asked)] * 2), disable_tqdm=True)
    assert model.tokens_per_forward == 4.0
    assert model.get_model_info()["denoiser_calls"] == 4
    first = model.generate_until(instances("generate_until", [("abc", asked)]))[0]
    stopped = harness_model(tokens_per_step=4)
    ended = {"until": [first[1]], "max_gen_toks": 8}
    place = first.index(first[1])
    assert stopped.generate_until(instances("generate_until", [("abc", ended)])) == [first[:place]]
    assert stopped.get_model_info()["denoiser_calls"] == 1
    assert stopped.tokens_per_forward == 4.0


def test_a_prompt_asked_twice_is_sampled_twice() -> None:
    asked = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    requests = instances("generate_until", [("abc", asked)] * 2)
    texts = [harness_model(batch_size=size).generate_until(requests) for size in (1, 1, 2)]
    assert all(first != second for first, second in texts)
    assert texts[0] == texts[1]


def test_texts_end_at_any_end_of_text_token() -> None:
    """The token that ends a text is no part of it, and its row takes no part in later calls."""
    model = harness_model(tokens_per_step=4)
    request = instances("generate_until", [("abc", {"until": [], "max_gen_toks": 8})])
    whole = model.generate_until(request, disable_tqdm=True)[0]
    last = whole[2]
    model.model.denoiser.end_ids = (0, int(model.model.vocabulary.encode(last)[0]))
    place = min(
        whole.find(end) for end in (last, model.model.vocabulary.decode([0])) if end in whole
    )
    assert model.generate_until(request, disable_tqdm=True) == [whole[:place]]


def test_likelihoods_are_those_of_the_estimator() -> None:
    model = harness_model(batch_size=3, likelihood="chain_rule")
    pairs = [("abc ", "def"), ("", "abcdefghab"), ("a", "b")]
    found = model.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    encoded = [encode_pair(model.model.vocabulary, *pair) for pair in pairs]
    expected = score_continuations(
        model.model, *zip(*encoded, strict=True), LikelihoodOptions(method="chain_rule")
    )
    for (log_prob, greedy), each in zip(found, expected, strict=True):
        assert log_prob == pytest.approx(each.log_prob, rel=1e-5)
        assert greedy == each.is_greedy
    whole = model.loglikelihood_rolling(
        instances("loglikelihood_rolling", [("abcdefghab",)]), disable_tqdm=True
    )
    assert whole == [pytest.approx(found[1][0], rel=1e-5)]
    assert "tokens_per_forward" not in model.get_model_info()


def test_coupling_and_chat_template_reach_the_model(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    pairs = instances("loglikelihood", [("abc", "defg")])
    values = {
        coupling: harness_model(coupling=coupling).loglikelihood(pairs, disable_tqdm=True)[0][0]
        for coupling in ("factorised", "copula", "product")
    }
    assert len({round(value, 3) for value in values.values()}) == 3
    model = harness_model(chat_template=str(file))
    assert model.apply_chat_template([{"role": "user", "content": "a"}]) == "<user>a\n<assistant>"
    assert model.chat_template(True) == TEMPLATE
    assert model.tokenizer_name == model.model.vocabulary.fingerprint
    with pytest.raises(EvaluationError, match="expected no name, found 'tool_use'"):
        model.chat_template("tool_use")
    with pytest.raises(EvaluationError, match="chat template: expected one of the denoiser's"):
        harness_model().apply_chat_template([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "elbo"}, "found 'elbo'"),
        ({"batch_size": "many"}, "batch_size: expected a number from 1 on or 'auto', found 'many'"),
        ({"batch_size": 0}, "batch_size: expected a number"),
        ({"gama": 0.3}, "gama: expected one of"),
    ],
)
def test_wrong_model_arguments_fail_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        harness_model(**options)
    assert harness_model(batch_size="auto", max_batch_size=5).batch_size == 5


def write_tasks(folder: Path) -> None:
    """A generation task and a likelihood task, as YAML with their data as JSON lines."""
    (folder / "write.jsonl").write_text(
        '{"prompt": "Return the ", "answer": "x"}\n{"prompt": "Raise a ", "answer": "y"}\n'
    )
    (folder / "choose.jsonl").write_text(
        '{"prompt": "Return the number of ", "choices": ["items", "xq zk"], "label": 0}\n'
        '{"prompt": "Raise a ", "choices": ["VqlxeErrzr", "ValueError"], "label": 1}\n'
    )
    common = "dataset_path: json\ntest_split: test\ndoc_to_text: '{{prompt}}'\n"
    (folder / "write.yaml").write_text(
        f"task: local_write\noutput_type: generate_until\n{common}"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'write.jsonl'}}}}}\n"
        "doc_to_target: '{{answer}}'\ntarget_delimiter: ''\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 8}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    (folder / "choose.yaml").write_text(
        f"task: local_choose\noutput_type: multiple_choice\n{common}"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'choose.jsonl'}}}}}\n"
        "doc_to_target: label\ndoc_to_choice: '{{choices}}'\ntarget_delimiter: ''\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )


def run_harness(arguments: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own, as users start it: the harness's libraries warn when imported."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "codd.lm_eval", *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_local_tasks_run_end_to_end_without_network(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    done = run_harness(
        [
            "--tasks=local_write,local_choose",
            f"--include_path={tmp_path}",
            "--model_args=pretrained=demo,tokens_per_step=4,coupling=copula",
            "--batch_size=4",
            "--log_samples",
            f"--output_path={tmp_path / 'out'}",
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "tokens per forward: 4.00" in done.stderr + done.stdout
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["results"]["local_choose"]["acc,none"] == 1.0
    assert results["results"]["local_write"]["exact_match,none"] == 0.0
    assert results["config"]["tokens_per_forward"] == 4.0
    (written,) = (tmp_path / "out").rglob("samples_local_write_*.jsonl")
    model = codd.CoupledModel.from_pretrained("demo")
    texts = {
        sample["doc"]["prompt"]: sample["resps"][0][0]
        for sample in map(json.loads, written.read_text().splitlines())
    }
    assert set(texts) == {"Return the ", "Raise a "}
    for prompt, text in texts.items():
        alone = model.generate(
            prompt, new_tokens=32, tokens_per_step=4, sampler="any_order", temperature=0.0
        )[0]
        assert alone[len(prompt) :][:8].split(".")[0] == text
    (chosen,) = (tmp_path / "out").rglob("samples_local_choose_*.jsonl")
    sample = json.loads(chosen.read_text().splitlines()[0])
    log_prob = float(sample["resps"][0][0][0])
    pair = encode_pair(model.vocabulary, "Return the number of ", "items")
    expected = score_continuations(model, [pair[0]], [pair[1]], LikelihoodOptions())[0]
    assert log_prob == pytest.approx(expected.log_prob, rel=1e-3)
    assert math.exp(log_prob) < 1 and torch.isfinite(torch.tensor(log_prob))


@pytest.mark.filterwarnings("ignore")
def test_the_command_names_the_model_and_says_errors_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []

    def evaluate() -> None:
        seen.append(sys.argv[1:])
        if len(seen) == 1:
            raise EvaluationError("wrong\nin two lines")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", evaluate)
    monkeypatch.setattr(sys, "argv", ["codd"])
    assert main(["--tasks", "a"]) == 2
    assert capsys.readouterr().err == "codd: error: wrong in two lines\n"
    for words in (["run", "--tasks", "a"], ["--model=hf", "--tasks", "a"], ["ls", "tasks"], []):
        assert main(words) == 0
    usual = ["run", "--model", "codd", "--tasks", "a"]
    assert seen == [usual, usual, ["--model=hf", "--tasks", "a"], ["ls", "tasks"], []]
