"""A coupled model as the Language Model Evaluation Harness sees models.

The harness (Gao et al., https://github.com/EleutherAI/lm-evaluation-harness) asks for three things:
continuations up to a stop text, log-likelihoods of continuations, log-likelihoods of whole texts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import Collator, normalize_gen_kwargs
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from codd.decoding.loop import generate
from codd.decoding.records import StepRecord
from codd.denoisers.base import LoadOptions
from codd.errors import EvaluationError
from codd.evaluation.likelihood import Likelihood, LikelihoodOptions, score_continuations
from codd.lm_eval.chat import ChatTemplate, read_template
from codd.lm_eval.requests import (
    DecodingRequest,
    check_options,
    cut_at,
    encode_pair,
    read_request,
    stop_sequences,
)
from codd.model import CoupledModel

NAME = "codd"
_log = logging.getLogger("lm_eval").getChild(NAME)  # shown as the harness shows its own
_BATCH_SIZE = 8
_USUAL_DEVICE = "cuda:0"  # what the harness says if its user says nothing


@register_model(NAME)
class CoupledLM(LM):  # type: ignore[misc]
    """The model "codd" of the harness.

    Args:
        pretrained: Folder, "demo", or hub id of a model; or a model.
        batch_size: Prompts, or blocks to score, of a denoiser call; "auto" for `max_batch_size`.
        max_batch_size: What "auto" means; default 8.
        device: A torch device, if there is no `device_map`; the CPU where the harness' default,
            "cuda:0", is not there.
        dtype: Of a published denoiser's weights, such as "bfloat16"; "auto" or None for that of
            its files.
        device_map: "auto" for all CUDA devices; see `CoupledModel.from_pretrained`.
        quantization: "8bit" or "4bit"; see there.
        likelihood: "one_step", "chain_rule" or "monte_carlo"; see `codd.evaluation.likelihood`.
        likelihood_block: Tokens scored together; None for the circuit's window.
        likelihood_samples: Random masks a block of "monte_carlo".
        seed: Of generation, one more with each batch, and of "monte_carlo".
        chat_template: Jinja file with a chat template, or a published network's folder; None for
            the denoiser's own, if it has one. It counts with the harness's `--apply_chat_template`.
        **decoding: Arguments of `codd.generate` in any spelling: `steps`, `tokens_per_step` or
            `quota`; `block_length`, `mode`, `coupling`, `selection`, `sampler`, `temperature`,
            `top_p`, `guidance`, `revision`, `new_tokens`, ... One token a call and greedy, fixed
            one by one in the circuit, if nothing else is said.

    Raises:
        CoddError: If the model cannot be read or an option is wrong.
    """

    def __init__(
        self,
        pretrained: str | CoupledModel = "demo",
        *,
        batch_size: int | str = _BATCH_SIZE,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        device_map: str | None = None,
        quantization: str | None = None,
        likelihood: str = "one_step",
        likelihood_block: int | None = None,
        likelihood_samples: int = 128,
        seed: int = 0,
        chat_template: str | None = None,
        **decoding: Any,
    ) -> None:
        super().__init__()
        check_options(decoding)
        self.batch_size = _batch_size(batch_size, max_batch_size)
        self.scoring = LikelihoodOptions(
            method=likelihood,
            block_length=likelihood_block,
            coupling=decoding.get("coupling"),
            samples=likelihood_samples,
            seed=seed,
            batch_size=self.batch_size,
        )
        self.decoding = decoding
        self.seed = seed
        place = _device(device) if device_map is None else device_map
        self.model = _read(pretrained, LoadOptions(_dtype(dtype), place, quantization)).eval()
        self._device = self.model.device
        self._place = chat_template
        self._tokens = self._calls = self._batches = 0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens that a denoiser call fixed in the mean text that took part in it."""
        return self._tokens / max(self._calls, 1)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes of the model into its results."""
        info = {
            "vocabulary": self.model.vocabulary.fingerprint,
            "coupling": str(self.decoding.get("coupling") or self.model.settings.kind),
            "likelihood": self.scoring.method,
        }
        if not self._calls:
            return info
        figures = {"tokens_per_forward": self.tokens_per_forward, "denoiser_calls": self._calls}
        return {**info, **figures}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continues texts; see `codd.lm_eval.requests.read_request` for what holds.

        Args:
            requests: Pairs of a context and the task's generation arguments.
            disable_tqdm: Shows no progress.
        """
        groups = Collator(
            [request.args for request in requests],
            sort_fn=lambda pair: -len(pair[0]),
            group_fn=lambda pair: pair[1],
            group_by="gen_kwargs",
        )
        texts: list[str] = []
        with _progress("generation", hidden=disable_tqdm) as report:
            for batch in groups.get_batched(n=self.batch_size):
                asked = normalize_gen_kwargs(batch[0][1])
                request = read_request(self.decoding, asked, self.model.block)
                found = self._continued([pair[0] for pair in batch], request)
                for pair, text in zip(batch, found, strict=True):
                    self.cache_hook.add_partial("generate_until", pair, text)
                texts += found
                report(len(texts), len(requests))
        _log.info("tokens per forward: %.2f", self.tokens_per_forward)
        return list(groups.get_original(texts))

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Scores continuations.

        Args:
            requests: Pairs of a context, which may be empty, and a continuation.
            disable_tqdm: Shows no progress.

        Returns:
            Nats, and whether greedy decoding would write it, of each.
        """
        vocabulary = self.model.vocabulary
        pairs = [encode_pair(vocabulary, *request.args) for request in requests]
        found = self._scored(pairs, self.scoring, hidden=disable_tqdm)
        answers = [(each.log_prob, each.is_greedy) for each in found]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Scores whole texts, each block given as much of the text before it as the model sees.

        Args:
            requests: One text each.
            disable_tqdm: Shows no progress.

        Returns:
            Nats of each.
        """
        nothing = torch.zeros(0, dtype=torch.int64)
        encode = self.model.vocabulary.encode
        pairs = [(nothing, encode(request.args[0])) for request in requests]
        options = replace(self.scoring, greedy=False)
        found = self._scored(pairs, options, hidden=disable_tqdm)
        for request, each in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, each.log_prob)
        return [each.log_prob for each in found]

    @property
    def tokenizer_name(self) -> str:
        """The vocabulary's fingerprint."""
        return self.model.vocabulary.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template in use, which the harness records.

        Raises:
            EvaluationError: If one of several is asked for by name, or there is none.
        """
        if isinstance(chat_template, str):
            raise EvaluationError(
                f"apply_chat_template: expected no name, found {chat_template!r}; give a file with "
                "the model argument chat_template"
            )
        return self._template.text if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Turns messages into a prompt.

        Raises:
            EvaluationError: If there is no chat template, or it refuses the messages.
        """
        return self._template.render(chat_history, add_generation_prompt)

    @cached_property
    def _template(self) -> ChatTemplate:
        found = read_template(self._place, getattr(self.model.denoiser, "origin", None))
        if found is None:
            raise EvaluationError(
                "chat template: expected one of the denoiser's or the model argument "
                "chat_template=FILE, found none"
            )
        return found

    def _continued(self, contexts: Sequence[str], request: DecodingRequest) -> list[str]:
        vocabulary, end_ids = self.model.vocabulary, getattr(self.model.denoiser, "end_ids", ())
        calls = torch.zeros(len(contexts), dtype=torch.int64, device=self._device)

        def count(record: StepRecord) -> None:
            # A row whose text has ended takes no part in later calls.
            calls.add_(record.fixed.any(dim=1))

        found = generate(
            self.model,
            [vocabulary.encode(context).to(self._device) for context in contexts],
            request.new_tokens,
            stop=[*([each] for each in end_ids), *stop_sequences(request.until, vocabulary)],
            callback=count,
            # A prompt that is asked several times is answered by as many samples.
            **{"seed": self.seed + self._batches, **request.options},
        )
        self._batches += 1
        assert found.lengths is not None  # `generate` says it, only filling in does not
        lengths = found.lengths.clamp(max=request.kept)
        self._tokens += int((found.fixed_at >= 0).sum())
        self._calls += int(calls.sum())
        rows = zip(found.completions.cpu(), lengths.tolist(), strict=True)
        kept = [_without_end(row[:length], end_ids) for row, length in rows]
        return [cut_at(vocabulary.decode(row), request.until) for row in kept]

    def _scored(
        self, pairs: Sequence[tuple[Tensor, Tensor]], options: LikelihoodOptions, *, hidden: bool
    ) -> list[Likelihood]:
        contexts, continuations = ([pair[i].to(self._device) for pair in pairs] for i in (0, 1))
        with _progress("log-likelihoods", hidden=hidden) as report:
            return score_continuations(
                self.model, contexts, continuations, options, progress=report
            )


def _read(pretrained: str | CoupledModel, options: LoadOptions) -> CoupledModel:
    if isinstance(pretrained, CoupledModel):
        device = options.device_map
        return pretrained.to(device) if isinstance(device, torch.device) else pretrained
    return CoupledModel.from_pretrained(
        pretrained,
        dtype=options.dtype,
        device_map=options.device_map,
        quantization=options.quantization,
    )


def _dtype(name: str | None) -> torch.dtype | None:
    if name in (None, "auto"):
        return None
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise EvaluationError(f"dtype: expected a number type such as 'bfloat16', found {name!r}")
    return found


def _device(asked: str | None) -> torch.device:
    if asked is None or (asked == _USUAL_DEVICE and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device(asked)


def _batch_size(asked: int | str, most: int | None) -> int:
    if asked == "auto":
        return most or _BATCH_SIZE
    if not str(asked).isdecimal() or int(asked) < 1:
        raise EvaluationError(f"batch_size: expected a number from 1 on or 'auto', found {asked!r}")
    return int(asked)


def _without_end(tokens: Tensor, end_ids: Sequence[int]) -> Tensor:
    """The tokens without the one that ends a text, which is no part of it."""
    return tokens[:-1] if len(tokens) and int(tokens[-1]) in end_ids else tokens


@contextmanager
def _progress(title: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    with Progress(console=Console(stderr=True), transient=True, disable=hidden) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
