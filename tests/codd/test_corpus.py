import hashlib
import json
import random
from pathlib import Path

import pytest

from codd.errors import CorpusError
from codd.training import corpus as corpus_module
from codd.training.corpus import (
    Corpus,
    Document,
    build_corpus,
    normalise_prose,
    python_documentation,
    read_jsonl,
    read_text_files,
)


@pytest.fixture(scope="module")
def documentation() -> Corpus:
    return python_documentation()


def prose(seed: int, words: int) -> str:
    """Random words that share no long passage between seeds."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(words))


def many(count: int) -> list[Document]:
    return [Document(f"doc{i}", prose(i, 30)) for i in range(count)]


def passages(text: str) -> set[str]:
    return {text[i : i + 50] for i in range(len(text) - 49)}


def test_the_default_corpus_has_the_promised_size_and_shares(documentation: Corpus) -> None:
    sizes = [
        sum(map(len, s)) for s in (documentation.train, documentation.valid, documentation.test)
    ]
    assert 1_000_000 < sum(sizes) < 4_000_000
    assert sizes[0] / sum(sizes) > 0.8
    assert min(sizes[1:]) / sum(sizes) > 0.015


def test_no_default_test_document_stands_in_the_training_text(documentation: Corpus) -> None:
    seen: set[str] = set()
    for text in (*documentation.train, *documentation.valid):
        seen |= passages(text)
    found = [passages(text) for text in documentation.test if len(text) >= 50]
    # The corpus compares passages that begin at words; here all offsets count, which moves a
    # few documents of one or two lines across the half.
    assert sum(2 * len(p & seen) > len(p) for p in found) <= len(found) // 100
    assert sum(len(p & seen) for p in found) < 0.03 * sum(map(len, found))


def test_the_default_corpus_is_normalised_prose(documentation: Corpus) -> None:
    text = "\n\n".join(documentation.train)
    assert "     " not in text and "====" not in text and "----" not in text
    assert all(d == d.strip() and "\n\n" not in d for d in documentation.train)
    assert text.count(" the ") > 10_000


def test_normalise_prose() -> None:
    raw = "  Title\n  ======\n\n\n    A  line,\t and\n more....... done.\n"
    assert normalise_prose(raw) == "Title\n===\nA line, and\nmore... done."


def test_the_split_depends_on_names_only() -> None:
    whole = build_corpus(many(400), source="all")
    ranks = [int(hashlib.sha256(d.name.encode()).hexdigest(), 16) % 10_000 for d in many(400)]
    expected = {d.text for d, rank in zip(many(400), ranks, strict=True) if rank < 600}
    assert set(whole.test) == expected
    assert 0.85 < len(whole.train) / 400 < 0.95 and 0.02 < len(whole.valid) / 400 < 0.06
    half = build_corpus(reversed(many(400)[::2]), source="half")
    for split in ("train", "valid", "test"):
        assert set(getattr(half, split)) <= set(getattr(whole, split))


def test_documents_of_one_group_stay_together() -> None:
    documents = [Document(f"doc{i}", prose(i, 30), group=f"group{i % 40}") for i in range(400)]
    built = build_corpus(documents, source="grouped")
    group = {d.text: d.group for d in documents}
    found = [{group[t] for t in getattr(built, s)} for s in ("train", "valid", "test")]
    assert sum(map(len, found)) == 40
    assert all(found)


def test_few_documents_still_fill_every_split() -> None:
    built = build_corpus(many(3), source="few")
    assert [len(built.train), len(built.valid), len(built.test)] == [1, 1, 1]


def test_repeated_documents_are_kept_once() -> None:
    shared, tail = prose(1000, 40), prose(1001, 10)
    copies = [Document("a", shared), Document("b", shared), Document("c", f"{tail} {shared}")]
    built = build_corpus([*copies, *many(50)], source="copies")
    texts = [*built.train, *built.valid, *built.test]
    assert len(texts) == 51
    assert sum(shared in text for text in texts) == 1


def test_a_held_out_document_inside_a_longer_training_one_is_dropped() -> None:
    # Each is mostly new when it is read, so only the comparison across splits can find it.
    whole = build_corpus(many(400), source="all")
    held_out = whole.test[0]
    long = Document("doc_long", f"{prose(2000, 60)} {held_out} {prose(2001, 60)}")
    built = build_corpus([*many(400), long], source="all")
    assert long.text in built.train
    assert held_out not in built.test
    assert len(built.test) == len(whole.test) - 1


def test_the_fingerprint_follows_the_text() -> None:
    first = build_corpus(many(20), source="x")
    assert first == build_corpus(many(20), source="x")
    assert first.sha256 != build_corpus(many(21), source="x").sha256


def test_text_files(tmp_path: Path) -> None:
    texts = [prose(i, 30) for i in range(5)]
    paths = []
    for i, text in enumerate(texts):
        paths.append(tmp_path / f"{i}.txt")
        paths[-1].write_text(f"{text}\n", encoding="utf-8")
    built = read_text_files(paths)
    assert sorted((*built.train, *built.valid, *built.test)) == sorted(texts)


def test_text_files_split_at_blank_lines(tmp_path: Path) -> None:
    texts = [f"{prose(i, 20)}\n{prose(100 + i, 20)}" for i in range(6)]
    path = tmp_path / "all.txt"
    path.write_text("\n \n\n".join(texts), encoding="utf-8")
    built = read_text_files([path], split_paragraphs=True)
    assert sorted((*built.train, *built.valid, *built.test)) == sorted(texts)


def test_jsonl(tmp_path: Path) -> None:
    texts = [prose(i, 20) for i in range(5)]
    path = tmp_path / "all.jsonl"
    path.write_text("\n".join(json.dumps({"body": t}) for t in texts) + "\n", encoding="utf-8")
    built = read_jsonl(path, field="body")
    assert sorted((*built.train, *built.valid, *built.test)) == sorted(texts)
    with pytest.raises(CorpusError, match="line 1: expected an object with a string 'text'"):
        read_jsonl(path)


def test_unreadable_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nothing\.txt: expected an existing file"):
        read_text_files([tmp_path / "nothing.txt"])
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(CorpusError, match="expected UTF-8, found byte 0xe9 at offset 3"):
        read_text_files([latin])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "fine"}\n{"text": \n', encoding="utf-8")
    with pytest.raises(CorpusError, match="line 2: expected a JSON object"):
        read_jsonl(broken)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"at least 3 different documents.*found 0"):
        read_text_files([empty])


def test_a_python_without_library_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"expected the standard library's \.py files"):
        list(corpus_module._library_docstrings(tmp_path))
