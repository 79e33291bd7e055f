"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codd.decoding.selection import SELECTIONS
from codd.errors import ConfigError, CorpusError
from codd.model import CoupledModel
from codd.training.corpus import (
    Corpus,
    python_documentation,
    read_jsonl,
    read_splits,
    read_text_files,
)
from codd.training.windows import encode_documents, evaluation_windows
from codd.vocabulary import Vocabulary

PYTHON = "python"
DTYPES = ("float32", "bfloat16", "float16")
_FEWEST_DOCUMENTS = 3


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Adds `--corpus`, also called `--text`."""
    parser.add_argument(
        "--corpus",
        "--text",
        nargs="+",
        default=[PYTHON],
        metavar="SOURCE",
        help=f"{PYTHON!r} for the documentation of the running Python; or UTF-8 text files, each "
        f"a document (fewer than {_FEWEST_DOCUMENTS} are split at blank lines); or one .jsonl "
        f"file with a 'text' in each line; or a folder with train.jsonl, valid.jsonl and "
        f"test.jsonl, taken as they are; default {PYTHON}",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the model, as `read_model` takes it."""
    parser.add_argument("model", metavar="MODEL", help="folder, 'demo', or hub id of a model")


def add_result(parser: argparse.ArgumentParser, name: str, *, beside: str = "") -> None:
    """Adds `--out`, the JSON file that results go to.

    Args:
        parser: The command's.
        name: Of the file if none is given.
        beside: What else is told of it.
    """
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(name),
        metavar="FILE",
        help=f"JSON file, replaced in one step; {beside}default %(default)s",
    )


def add_seed(parser: Any) -> None:
    """Adds `--seed`, to a parser or a group of arguments."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default %(default)s")


def add_number(group: Any, flag: str, default: int, text: str) -> None:
    """Adds an option that is a whole number.

    Args:
        group: A parser or a group of arguments.
        flag: Such as "--steps".
        default: Without the option.
        text: What it is.
    """
    group.add_argument(flag, type=int, default=default, metavar="N", help=told(text))


def told(text: str) -> str:
    """The help of an option that has a default."""
    return f"{text}; default %(default)s"


def add_selection(group: Any, default: str) -> None:
    """Adds `--selection`."""
    group.add_argument(
        "--selection",
        choices=tuple(SELECTIONS),
        default=default,
        help=told("which positions come first"),
    )


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`, `--dtype` and `--quantization`: how the model is laid out in memory."""
    group = parser.add_argument_group("where the model lies")
    group.add_argument(
        "--device",
        metavar="DEVICE",
        help="such as cuda; 'auto' spreads a published denoiser over the CUDA devices; default cpu",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="number type of the denoiser's weights; default that of its files",
    )
    group.add_argument(
        "--quantization",
        choices=("8bit", "4bit"),
        help="of a published denoiser's blocks, by bitsandbytes (extra `quantize`)",
    )


def read_model(args: argparse.Namespace) -> CoupledModel:
    """The model that the options name, laid out as they say.

    Raises:
        CheckpointError: If there is none, or it cannot be laid out so.
    """
    return CoupledModel.from_pretrained(
        args.model,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
        device_map=args.device,
        quantization=args.quantization,
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Adds `--threads`."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of a tensor operation; default PyTorch's"
    )


def set_threads(count: int | None) -> None:
    """Limits the threads of a tensor operation.

    Args:
        count: At least 1; None leaves PyTorch's own choice.

    Raises:
        ConfigError: If it is below 1.
    """
    if count is None:
        return
    if count < 1:
        raise ConfigError(f"--threads: expected at least 1, found {count}")
    torch.set_num_threads(count)


def read_corpus(sources: Sequence[str], *, rows: bool = False) -> Corpus:
    """Reads what `--corpus` names.

    Args:
        sources: As on the command line.
        rows: Whether every document is an example by itself, for a folder.

    Raises:
        CorpusError: If a source is missing or unreadable, they do not go together, or there is too
            little text.
    """
    if list(sources) == [PYTHON] and not rows:
        return python_documentation()
    if len(sources) == 1 and Path(sources[0]).is_dir():
        return read_splits(sources[0], rows=rows)
    if rows:
        raise CorpusError(f"--rows: expected a folder with train.jsonl, found {sources[0]!r}")
    if len(sources) == 1 and sources[0].endswith(".jsonl"):
        return read_jsonl(sources[0])
    for source in sources:
        if source == PYTHON or source.endswith(".jsonl"):
            raise CorpusError(
                f"--corpus: expected {PYTHON!r} alone, one .jsonl file alone, or text files; "
                f"found {source!r} among {len(sources)} sources"
            )
    return read_text_files(sources, split_paragraphs=len(sources) < _FEWEST_DOCUMENTS)


def held_out_windows(
    corpus: Corpus, vocabulary: Vocabulary, length: int, count: int, *, split: str = "test"
) -> Tensor:
    """Windows of a split that nothing was learned from, spread evenly over it.

    Args:
        corpus: Its split is cut.
        vocabulary: Text to ids.
        length: L, tokens a window.
        count: Most windows wanted.
        split: "test" for figures that are reported, "valid" for choices.

    Returns:
        (N, L) int64 ids; N is smaller than `count` where the split has no more.

    Raises:
        ConfigError: If `count` is below 1.
        CorpusError: If the split is shorter than a window.
    """
    if count < 1:
        raise ConfigError(f"windows: expected at least 1, found {count}")
    windows = evaluation_windows(encode_documents(getattr(corpus, split), vocabulary), length)
    chosen = torch.linspace(0, len(windows) - 1, min(count, len(windows))).round().long()
    return windows[chosen]


def prepare_folder(folder: Path) -> None:
    """Makes the folder that results go to, so that a wrong path fails before the work.

    Args:
        folder: Made if missing.

    Raises:
        OSError: If it cannot be made or is a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
