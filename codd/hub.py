"""Models by name: a folder, the one shipped with the package, or a repository on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codd.errors import CheckpointError

DEMO = "demo"
MODEL_FILES = ("*.json", "*.safetensors")


def locate(
    name: str | Path, *, files: Sequence[str] = MODEL_FILES, revision: str | None = None
) -> Path:
    """The folder of a model, fetched from the Hugging Face hub if it is not on the disk.

    Args:
        name: A folder; "demo"; or an id "owner/name" on the hub (extra `hub`).
        files: Patterns of the files that are fetched.
        revision: Branch, tag or commit on the hub; None for the newest.

    Raises:
        CheckpointError: If it is none of these, or cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    if name == DEMO:
        return Path(__file__).parent / "assets" / DEMO
    if not is_hub_id(name):
        raise CheckpointError(
            f"no model {str(name)!r}: expected a folder, {DEMO!r}, or a hub id 'owner/name'"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"no folder {str(name)!r}; to fetch a model of that id install the extra `hub`"
        ) from error
    try:
        found = snapshot_download(str(name), revision=revision, allow_patterns=list(files))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot fetch model {str(name)!r}: {error}") from error
    return Path(found)


def is_hub_id(name: str | Path) -> bool:
    """Whether a name may be that of a repository on the hub."""
    text = str(name)
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith("/")


def push(folder: Path, name: str, *, private: bool, token: str | None, message: str) -> str:
    """Uploads a folder to the Hugging Face hub, making the repository if there is none.

    Args:
        folder: What is uploaded.
        name: Id "owner/name" of the repository.
        private: Whether a new repository is private.
        token: Of an account; None for the one that is logged in.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: If the id is none, `huggingface_hub` is missing, or the hub refuses.
    """
    if not is_hub_id(name):
        raise CheckpointError(f"push: expected a hub id 'owner/name', found {name!r}")
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError("push: to reach the hub install the extra `hub`") from error
    api: Any = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(folder_path=folder, repo_id=name, commit_message=message)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot push to {name!r}: {error}") from error
    return str(done.commit_url)
