import pytest
import torch

from codd.errors import CorpusError
from codd.training.windows import encode_documents, evaluation_windows, sample_windows
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


def test_a_text_shorter_than_a_window_is_refused() -> None:
    message = "at least one window of 12 tokens, found 11"
    with pytest.raises(CorpusError, match=message):
        evaluation_windows(torch.arange(11), 12)
    with pytest.raises(CorpusError, match=message):
        sample_windows(torch.arange(11), 12, 1, torch.Generator())
