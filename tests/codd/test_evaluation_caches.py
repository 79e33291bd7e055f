"""What `codd caches` reports: nothing under a block-causal mask, something where all see all."""

import json
from pathlib import Path

import pytest
import torch

from codd.cli.main import main
from codd.errors import EvaluationError
from codd.evaluation.caches import CacheProtocol, measure_caches
from tests.codd.test_decoding_caches import SIZE, model_of

PROTOCOL = CacheProtocol(block=4, batch_size=8)


def windows(count: int = 12) -> torch.Tensor:
    return torch.randint(0, SIZE, (count, 13), generator=torch.Generator().manual_seed(1))


def test_a_block_causal_mask_changes_nothing_and_seeing_all_does() -> None:
    causal = measure_caches(model_of("native", 4), windows(), PROTOCOL)
    seeing = measure_caches(model_of("native", None), windows(), PROTOCOL)
    for cache in ("prefix", "dual", "block"):
        assert float(causal.changed[cache].max()) == 0.0
        same = causal.log_likelihoods["none"]
        torch.testing.assert_close(causal.log_likelihoods[cache], same, rtol=0, atol=1e-6)
        assert float(seeing.changed[cache].mean()) > 0.0
        found = seeing.log_likelihoods[cache] - seeing.log_likelihoods["none"]
        assert float(found.abs().max()) > 1e-3
    report = json.loads(json.dumps(seeing.to_json()))
    assert report["caches"]["dual"]["tokens_changed"]["value"] > 0.0
    assert report["caches"]["none"]["log_likelihood_change"][0]["value"] == 0.0


def test_without_a_cache_the_likelihood_is_the_model_s_own() -> None:
    model = model_of("transformer", None)
    found = measure_caches(model, windows(3), CacheProtocol(4, ratios=(1.0,), batch_size=8))
    masked = windows(3).clone()
    masked[:, -4:] = model.mask_id
    with torch.no_grad():
        expected = model.joint(masked).log_prob(windows(3)[:, -model.window :]) / 4
    torch.testing.assert_close(found.log_likelihoods["none"][:, 0], expected.double())
    # A block that is all masks is what every cache recorded.
    torch.testing.assert_close(found.log_likelihoods["dual"], found.log_likelihoods["none"])


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 blocks of at most 6 tokens and a prompt"):
        measure_caches(model_of("native", None), windows()[:, :8], PROTOCOL)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "caches.json"
    arguments = ["caches", "demo", "--windows", "2", "--tokens-per-step", "8", "--out", str(out)]
    assert main(arguments) == 0
    assert "tokens changed" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written["windows"] == 2 and set(written["caches"]) == {"none", "prefix", "dual", "block"}
