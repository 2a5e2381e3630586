"""The hub: where a base's files lie (a directory, or the cache, fetched once); an adapter's addresses."""

from __future__ import annotations

from pathlib import Path

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from actors.lm.adapter import CONFIG, WEIGHTS
from actors.lm.fetch import Remote, outage, refusal
from actors.lm.peft_config import MAX_CONFIG_NBYTES
from placement.errors import TierceError, UserError, WorldError

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


def adapter_files(model: str, weights_limit: int) -> dict[str, Remote]:
    """Return the addresses of the two files of the adapter with hub id `model`, of one commit.

    HF_ENDPOINT and HF_TOKEN count. Raises UserError STO010, 011, 019, WorldError STO012, 013, 017.
    """
    address = f"{constants.ENDPOINT}/{model}"
    revision, found = "main", {}
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for file, limit in ((CONFIG, MAX_CONFIG_NBYTES), (WEIGHTS, weights_limit)):
        try:
            told = get_hf_file_metadata(hf_hub_url(model, file, revision=revision))
        except (HFValidationError, HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError) as error:
            raise _refused(address, model, file, error) from error
        revision = told.commit_hash or revision
        found[file] = Remote(hf_hub_url(model, file, revision=revision), limit, headers)
    return found


def cached_adapter(model: str) -> str | None:
    """Return the directory of an adapter in the hub's cache if HF_HUB_OFFLINE is set and it is there."""
    if not constants.HF_HUB_OFFLINE:
        return None
    try:
        folder = snapshot_download(model, allow_patterns=[CONFIG, WEIGHTS], local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    return folder if (Path(folder) / WEIGHTS).exists() else None


def _refused(address: str, model: str, file: str, error: Exception) -> TierceError:
    match error:
        case HFValidationError():
            told = f"{model!r} is neither a URL, nor a directory on this node, nor a hub id"
            return UserError("STO019", told, "mend lora_path")
        case OfflineModeIsEnabled():
            told = f"{address} is not in the cache of the hub, and HF_HUB_OFFLINE is set"
            return WorldError("STO012", told, "unset HF_HUB_OFFLINE, or fill the cache of the node")
        case GatedRepoError():
            return UserError("STO011", f"{address} is gated", "accept its terms on the hub and set HF_TOKEN")
        case RemoteEntryNotFoundError():
            return UserError(
                "STO010", f"{address} has no {file}", "is it a LoRA adapter, saved as safetensors?"
            )
        case RepositoryNotFoundError():
            told = f"{address} does not exist, or is private"
            return UserError("STO010", told, "mend lora_path, or set HF_TOKEN")
        case HfHubHTTPError():
            return refusal(address, error.response.status_code)
        case _:
            return outage(address, error, constants.HF_HUB_ETAG_TIMEOUT)
