"""Chat templates: messages to prompts, by the Jinja templates that come with tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from codd.denoisers.base import Origin
from codd.denoisers.folders import open_folder, read_json
from codd.errors import EvaluationError

_TEMPLATE, _CONFIG = "chat_template.jinja", "tokenizer_config.json"
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class ChatTemplate:
    """How a network wants messages to be written.

    Attributes:
        text: A Jinja template of `messages` and `add_generation_prompt`.
        tokens: Special tokens that it may name, such as `bos_token`.
    """

    text: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """Writes messages as one prompt; the template runs in Jinja's sandbox.

        White space is treated as transformers does it.

        Args:
            messages: Each with a "role" and a "content".
            add_generation_prompt: Whether the prompt ends where an answer begins.

        Raises:
            EvaluationError: If the template is wrong or refuses the messages.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            return environment.from_string(self.text).render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self.tokens
            )
        except TemplateError as error:
            raise EvaluationError(f"chat template: {error}") from error


def read_template(place: str | Path | None, origin: Origin | None) -> ChatTemplate | None:
    """Reads a chat template.

    Args:
        place: A Jinja file; or a folder with `chat_template.jinja` or a `tokenizer_config.json`
            that has one, as published networks have them; None for the network's own.
        origin: Where the network was read from, or None.

    Returns:
        The template; None without a place if the network has none.

    Raises:
        EvaluationError: If the place has none or cannot be read.
    """
    if place is None:
        return (
            None if origin is None else _in_folder(open_folder(origin.name, origin.revision).path)
        )
    path = Path(place)
    found = _in_folder(path) if path.is_dir() else ChatTemplate(_text(path))
    if found is None:
        raise EvaluationError(
            f"chat_template: expected {_TEMPLATE} or a template in {_CONFIG}, found none in {path}"
        )
    return found


def _in_folder(folder: Path) -> ChatTemplate | None:
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    tokens = {name: _token(config.get(name)) for name in _TOKENS}
    own = folder / _TEMPLATE
    text = _text(own) if own.is_file() else _listed(config.get("chat_template"))
    return None if text is None else ChatTemplate(text, tokens)


def _listed(found: Any) -> str | None:
    """The template of a configuration: a text, or the default of several by name."""
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found}
        return _listed(named.get("default"))
    return found if isinstance(found, str) else None


def _token(found: Any) -> str:
    """A special token's text; configurations have it as it is or with its properties."""
    text = found.get("content") if isinstance(found, dict) else found
    return text if isinstance(text, str) else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"chat_template: expected a text file, found {error}") from error


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
