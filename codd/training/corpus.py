"""Text for training: one corpus is three tuples of documents that share no long passages.

The default corpus needs no download: it is the English prose of Python's own documentation (the
help topics behind ``help()`` and the docstrings of the standard library), read from the running
interpreter. It differs a little between Python versions, so a corpus carries its fingerprint.
"""

import ast
import hashlib
import json
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codd.errors import CorpusError

MIN_DOCSTRING = 40
SHINGLE = 50
VALID_PERCENT = 4
TEST_PERCENT = 6

_SPLITS = ("train", "valid", "test")
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}
)
_REPEATED_SIGN = re.compile(r"([^\w\s])\1{3,}")
_WORD_START = re.compile(r"\b\w")


@dataclass(frozen=True)
class Document:
    """A named text.

    Attributes:
        name: Unique and stable name.
        text: The text.
        group: Documents of one group fall into the same split; the name by default.
    """

    name: str
    text: str
    group: str = ""


@dataclass(frozen=True)
class Corpus:
    """Documents split into train, valid and test.

    Attributes:
        train: Texts to learn from.
        valid: Texts for choices made during training.
        test: Texts for reported figures.
        sha256: Hex digest of all three splits.
        source: What the text is, in words.
        rows: Whether every document is an example by itself, all of equally many tokens: a window
            is then the end of one document, never a piece of two.

    Examples:
        >>> from codd.training import Corpus
        >>> corpus = Corpus(("a cat",), ("a dog",), ("a cow",), sha256="", source="three animals")
        >>> codd.CharacterVocabulary.from_text(corpus.train, min_count=1).size
        5
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    sha256: str
    source: str
    rows: bool = False


def python_documentation() -> Corpus:
    """Builds the default corpus from the running interpreter's help topics and docstrings.

    Returns:
        About two million characters of English technical prose.

    Raises:
        CorpusError: If this Python was installed without its library sources.

    Examples:
        >>> from codd.training import python_documentation
        >>> corpus = python_documentation()
        >>> sum(map(len, corpus.train)) > 1_000_000
        True
    """
    folder = Path(sysconfig.get_path("stdlib"))
    documents = [*_help_topics(), *_library_docstrings(folder)]
    cleaned = [replace(d, text=normalise_prose(d.text)) for d in documents]
    return build_corpus(cleaned, source="documentation of the Python standard library")


def read_text_files(paths: Sequence[str | Path], *, split_paragraphs: bool = False) -> Corpus:
    r"""Builds a corpus from UTF-8 text files.

    Args:
        paths: The files; each is one document unless `split_paragraphs`.
        split_paragraphs: Make every block between blank lines a document of its own.

    Returns:
        The documents, split into train, valid and test.

    Raises:
        CorpusError: If a file is missing or not UTF-8, or too few documents remain.

    Examples:
        >>> from pathlib import Path
        >>> from codd.training import read_text_files
        >>> animals = ("cat", "dog", "cow", "horse", "sheep", "goat")
        >>> text = "\n\n".join(f"All that the {name} knows of the {name}s." for name in animals)
        >>> _ = Path("animals.txt").write_text(text)
        >>> corpus = read_text_files(["animals.txt"], split_paragraphs=True)
        >>> len(corpus.train + corpus.valid + corpus.test)
        6
    """
    documents = []
    for path in map(Path, paths):
        text = _read_utf8(path)
        parts = re.split(r"\n\s*\n", text) if split_paragraphs else [text]
        documents += [Document(f"{path.name}#{i}", part.strip()) for i, part in enumerate(parts)]
    return build_corpus(documents, source=", ".join(Path(p).name for p in paths))


def read_jsonl(path: str | Path, *, field: str = "text") -> Corpus:
    """Builds a corpus from a file with one JSON object a line; each is a document.

    Args:
        path: The file, UTF-8.
        field: The key whose string value is the text.

    Raises:
        CorpusError: If the file is missing, a line is not such an object, or too few remain.
    """
    path = Path(path)
    documents = [replace(d, text=d.text.strip()) for d in _read_lines(path, field)]
    return build_corpus(documents, source=path.name)


def read_splits(folder: str | Path, *, field: str = "text", rows: bool = False) -> Corpus:
    """Reads a corpus that was split before: train.jsonl, valid.jsonl and test.jsonl, as they are.

    Args:
        folder: Holds the three files, a JSON object a line.
        field: The key whose string value is the text.
        rows: Whether every document is an example by itself; see `Corpus`.

    Raises:
        CorpusError: If a file is missing or empty, or a line is not such an object.
    """
    folder = Path(folder)
    train, valid, test = (_read_lines(folder / f"{split}.jsonl", field) for split in _SPLITS)
    source = f"rows of {folder.name}" if rows else folder.name
    return replace(_fingerprinted(train, valid, test, source), rows=rows)


def build_corpus(documents: Iterable[Document], *, source: str) -> Corpus:
    """Removes repeated passages, splits by document name and fingerprints the result.

    About 90 / 4 / 6 % of the documents go to train / valid / test.

    Args:
        documents: Any order; names should be unique and stable.
        source: What the text is, in words; kept in the corpus.

    Raises:
        CorpusError: If fewer than three different documents remain.
    """
    ordered = sorted(documents, key=lambda d: (d.name, d.text))
    distinct = _without_near_duplicates(d for d in ordered if d.text)
    if len(distinct) < 3:
        raise CorpusError(
            f"corpus {source!r}: expected at least 3 different documents to split into train, "
            f"valid and test, found {len(distinct)}"
        )
    train, valid, test = _split(distinct)
    valid = _without_copies(valid, of=train)
    test = _without_copies(test, of=[*train, *valid])
    return _fingerprinted(train, valid, test, source)


def normalise_prose(text: str) -> str:
    """Strips indentation, runs of blanks and lines, and long rules such as ``=====``."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    joined = "\n".join(line for line in lines if line)
    return _REPEATED_SIGN.sub(r"\1\1\1", joined)


def _help_topics() -> list[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        # Some distributions package the help topics apart; the docstrings alone still do.
        return []
    return [Document(f"topic/{name}", text) for name, text in topics.items()]


def _library_docstrings(folder: Path) -> Iterator[Document]:
    files = sorted(folder.rglob("*.py"))
    if not files:
        raise CorpusError(
            f"default corpus: expected the standard library's .py files in {folder}, found none"
        )
    for file in files:
        relative = file.relative_to(folder)
        if not _SKIPPED_FOLDERS.intersection(relative.parts):
            yield from _docstrings(file, relative.with_suffix("").as_posix())


def _docstrings(file: Path, module: str) -> Iterator[Document]:
    with warnings.catch_warnings():
        # Old library modules contain invalid escapes; that is no concern of the reader's.
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError:
            return
    # Docstrings of one module resemble each other: they stay in one split.
    for document in _walk_docstrings(tree, module):
        yield replace(document, group=module)


def _walk_docstrings(node: ast.AST, name: str) -> Iterator[Document]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, documented):
        text = ast.get_docstring(node)
        if text and len(text) >= MIN_DOCSTRING:
            yield Document(name, text)
    for child in ast.iter_child_nodes(node):
        inner = f"{name}.{child.name}" if isinstance(child, documented[1:]) else name
        yield from _walk_docstrings(child, inner)


def _shingles(text: str) -> set[str]:
    """The passages of SHINGLE characters that begin at a word; the whole text if shorter."""
    starts = (match.start() for match in _WORD_START.finditer(text))
    found = {text[i : i + SHINGLE] for i in starts if i + SHINGLE <= len(text)}
    return found or {text}


def _without_near_duplicates(documents: Iterable[Document]) -> list[Document]:
    seen: set[str] = set()
    kept = []
    for document in documents:
        shingles = _shingles(document.text)
        if 2 * len(shingles & seen) <= len(shingles):
            kept.append(document)
            seen |= shingles
    return kept


def _without_copies(documents: list[Document], of: list[Document]) -> list[Document]:
    """Drops a document most of which stands inside others, even inside a much longer one."""
    seen: set[str] = set()
    for document in of:
        seen |= _shingles(document.text)
    kept = []
    for document in documents:
        shingles = _shingles(document.text)
        if 2 * len(shingles & seen) <= len(shingles):
            kept.append(document)
    return kept


def _rank(document: Document) -> int:
    """A number in 0..9999 that depends on the name only, not on Python's salted hash."""
    name = document.group or document.name
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10_000


def _split(documents: list[Document]) -> tuple[list[Document], list[Document], list[Document]]:
    test_end = 100 * TEST_PERCENT
    valid_end = test_end + 100 * VALID_PERCENT
    test = [d for d in documents if _rank(d) < test_end]
    valid = [d for d in documents if test_end <= _rank(d) < valid_end]
    train = [d for d in documents if _rank(d) >= valid_end]
    if train and valid and test:
        return train, valid, test
    # So few documents that the shares left a split empty: the lowest ranks fill them.
    by_rank = sorted(documents, key=_rank)
    return by_rank[2:], by_rank[1:2], by_rank[:1]


def _fingerprinted(
    train: list[Document], valid: list[Document], test: list[Document], source: str
) -> Corpus:
    first, second, third = (tuple(d.text for d in split) for split in (train, valid, test))
    digest = hashlib.sha256(json.dumps([first, second, third]).encode()).hexdigest()
    return Corpus(train=first, valid=second, test=third, sha256=digest, source=source)


def _read_utf8(path: Path) -> str:
    if not path.is_file():
        raise CorpusError(f"text file {path}: expected an existing file, found none")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"text file {path}: expected UTF-8, found byte {error.object[error.start]:#04x} "
            f"at offset {error.start}"
        ) from error


def _read_lines(path: Path, field: str) -> list[Document]:
    documents = [
        Document(f"{path.name}#{i}", _json_field(line, field, where=f"{path}, line {i}"))
        for i, line in enumerate(_read_utf8(path).split("\n"), start=1)
        if line.strip()
    ]
    if not documents:
        raise CorpusError(f"{path}: expected at least one line, found none")
    return documents


def _json_field(line: str, field: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: expected a JSON object, found {line[:40]!r}") from error
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str) or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise CorpusError(
            f"{where}: expected an object with a string {field!r}, found {line[:40]!r}"
        )
    return text
