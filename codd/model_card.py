"""The README of a coupled model on the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from codd.hub import is_hub_id
from codd.pretrained import Parts


def model_card(parts: Parts, name: str) -> str:
    """What a reader needs to know of a model, and how to load it, as Markdown.

    Args:
        parts: The model.
        name: Its id on the hub.
    """
    plan = parts.circuit.plan
    rows = {
        "denoiser": _denoiser(parts.denoiser),
        "circuit": f"{plan.num_variables} tokens of {plan.num_categories:,} categories, "
        f"{sum(p.numel() for p in parts.circuit.parameters()):,} parameters",
        "modulator": parts.modulator.kind,
        "coupling": _flat(asdict(parts.settings)),
        "block": f"{parts.block_length} tokens",
        "vocabulary": f"SHA-256 {parts.vocabulary.fingerprint}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    made = json.dumps(dict(parts.record), indent=1, ensure_ascii=False)
    record = f"\n## How it was made\n\n```json\n{made}\n```\n" if parts.record else ""
    return f"""---
{_header(parts.denoiser)}---
# {name.split("/")[-1]}

A masked diffusion language model whose tokens a probabilistic circuit couples: several tokens are
written in one step and still agree ([arXiv 2603.00045](https://arxiv.org/abs/2603.00045)).

```python
import codd

model = codd.CoupledModel.from_pretrained("{name}"{_given(parts.denoiser)})
print(model.generate("...", steps=8))
```

| part | is |
| --- | --- |
{table}
{record}"""


def _header(denoiser: Any) -> str:
    lines = ["library_name: codd", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {tag}" for tag in ("diffusion", "probabilistic-circuit", "codd")]
    origin = getattr(denoiser, "origin", None)
    if origin is not None and is_hub_id(origin.name):
        lines.append(f"base_model: {origin.name}")
    return "\n".join(lines) + "\n"


def _denoiser(denoiser: Any) -> str:
    origin = getattr(denoiser, "origin", None)
    size = f"{sum(p.numel() for p in denoiser.parameters()):,} parameters"
    kind = getattr(denoiser, "kind", "") or type(denoiser).__name__
    if origin is None:
        return f"{kind}, {size}"
    # A folder's whole path is of no use to others.
    where = origin.name if is_hub_id(origin.name) else origin.name.rsplit("/", 1)[-1]
    commit = f" at {origin.revision}" if origin.revision else ""
    return f"{origin.kind} `{where}`{commit}, {size}, not part of this repository"


def _given(denoiser: Any) -> str:
    return "" if getattr(denoiser, "kind", "") else ", denoiser=module"


def _flat(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
