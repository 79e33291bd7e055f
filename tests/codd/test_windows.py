import pytest
import torch

from codd.errors import CorpusError
from codd.training.windows import (
    encode_documents,
    encode_rows,
    encode_split,
    evaluation_windows,
    sample_windows,
)
from codd.vocabulary import CharacterVocabulary


def test_documents_are_joined_by_a_blank_line() -> None:
    vocabulary = CharacterVocabulary.from_text(["ab\n"])
    assert vocabulary.decode(encode_documents(["ab", "ba"], vocabulary)) == "ab\n\nba"


def test_sampled_windows_are_passages_at_every_offset() -> None:
    tokens = torch.arange(10)
    windows = sample_windows(tokens, 4, 500, torch.Generator().manual_seed(0))
    assert windows.shape == (500, 4)
    assert torch.equal(windows - windows[:, :1], torch.arange(4).expand(500, 4))
    assert set(windows[:, 0].tolist()) == set(range(7))


def test_evaluation_windows_cover_the_text_once() -> None:
    windows = evaluation_windows(torch.arange(11), 4)
    assert torch.equal(windows, torch.arange(8).view(2, 4))


def test_windows_of_rows_are_their_ends() -> None:
    rows = torch.arange(12).view(3, 4)
    windows = sample_windows(rows, 3, 200, torch.Generator().manual_seed(0))
    assert set(map(tuple, windows.tolist())) == {(1, 2, 3), (5, 6, 7), (9, 10, 11)}
    assert torch.equal(evaluation_windows(rows, 3), rows[:, 1:])
    with pytest.raises(CorpusError, match="at least one window of 5 tokens, found 4"):
        sample_windows(rows, 5, 1, torch.Generator())


def test_rows_are_documents_of_equal_length() -> None:
    vocabulary = CharacterVocabulary.from_text(["ab\n"])
    rows = encode_rows(["ab", "ba"], vocabulary)
    assert [vocabulary.decode(row) for row in rows] == ["ab", "ba"]
    assert torch.equal(encode_split(["ab", "ba"], vocabulary, rows=True), rows)
    stream = encode_split(["ab", "ba"], vocabulary, rows=False)
    assert vocabulary.decode(stream) == "ab\n\nba"
    with pytest.raises(CorpusError, match=r"expected 2 tokens in every document.*found 3 in 'abb'"):
        encode_rows(["ab", "abb"], vocabulary)
    with pytest.raises(CorpusError, match="expected at least one document, found none"):
        encode_rows([], vocabulary)


def test_a_text_shorter_than_a_window_is_refused() -> None:
    message = "at least one window of 12 tokens, found 11"
    with pytest.raises(CorpusError, match=message):
        evaluation_windows(torch.arange(11), 12)
    with pytest.raises(CorpusError, match=message):
        sample_windows(torch.arange(11), 12, 1, torch.Generator())
