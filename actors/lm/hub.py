"""Where a base model's files lie.

In a directory, or in the local cache of the hub, fetched if they are not there.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from placement.errors import UserError

#: Weights as safetensors only, under the names that are loaded; others and pickled ones are not even fetched.
WANTED = ("*.json", "model*.safetensors", "*.jinja")


def locate(model: str, *, cache_dir: str | None = None) -> str:
    """Return the directory of `model`, which is a directory or a hub id ("org/name").

    A hub id is looked up in the cache and fetched once, as huggingface_hub does; HF_HUB_OFFLINE keeps it from
    asking. Raises UserError LM010 if there is neither such a directory nor such a model.
    """
    if Path(model).is_dir():
        return model
    if Path(model).is_absolute() or model.startswith("."):
        raise UserError("LM010", f"base model {model} does not exist", "name a directory or a hub id")
    try:
        return str(snapshot_download(model, allow_patterns=list(WANTED), cache_dir=cache_dir))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            "LM010",
            f"base model {model!r} is no directory, and the hub gives none: {str(error).splitlines()[0]}",
            "name a directory, or a hub id that this machine can reach",
        ) from error
