"""Chat templates: messages to prompts, by the Jinja templates that come with tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from codd.errors import EvaluationError
from codd.vocabulary import Vocabulary


def read_template(file: str | Path | None, vocabulary: Vocabulary) -> str | None:
    """The chat template of a file, or else the vocabulary's own.

    Args:
        file: A Jinja file, UTF-8; None for the vocabulary's `chat_template`, if it has one.
        vocabulary: Of the model.

    Raises:
        EvaluationError: If the file cannot be read.
    """
    if file is None:
        return getattr(vocabulary, "chat_template", None)
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"chat_template: expected a text file, found {error}") from error


def render(
    template: str | None, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool
) -> str:
    """Writes messages as one prompt; the template runs in Jinja's sandbox.

    Args:
        template: A Jinja template of `messages` and `add_generation_prompt`, with the white space
            rules of transformers' templates.
        messages: Each with a "role" and a "content".
        add_generation_prompt: Whether the prompt ends where an answer begins.

    Raises:
        EvaluationError: If there is no template, it is wrong, or it refuses the messages.
    """
    if template is None:
        raise EvaluationError(
            "chat template: expected one in the vocabulary or as the model argument "
            "chat_template=FILE, found none"
        )
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise EvaluationError(f"chat template: {error}") from error


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
