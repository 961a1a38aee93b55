"""Uploading what a run leaves to the Hugging Face hub, by its own library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.run.leaving import is_local
from hiddenkey.lab.run.options import TrainOptions

_NAME: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def refuse_upload(options: TrainOptions) -> None:
    """Refuse, before the training, an upload that could not be made after it.

    Raises:
        ConfigError: if the name is wrong, others cannot load the adapter, or nobody is logged in.
    """
    name = options.push_to_hub
    if name is None:
        return
    faults = []
    if not _NAME.fullmatch(name):
        faults.append(f"push_to_hub must be USER/NAME, got {name!r}; write it like that")
    if options.adapter != "full" and is_local(options.model):
        faults.append(
            f"push_to_hub needs a base model that others can load too, got {options.model!r}, a"
            " local one; take its name on the hub, or adapter 'full', which uploads the whole model"
        )
    if faults:
        raise ConfigError(faults)
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ConfigError("push_to_hub needs the hub, got HF_HUB_OFFLINE; unset it, or push later")
    if get_token() is None:
        raise ConfigError("push_to_hub needs an account, nobody is logged in; run: hf auth login")
    with _reported(name, "leave push_to_hub out"):
        HfApi().whoami()


def upload(folder: Path, name: str) -> str:
    """Upload an adapter's folder, and return its address; a new repository is private.

    Raises:
        ConfigError: if the hub does not take it, with the command that tries again.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _reported(name, f"try again with: hf upload --private {name} {folder} ."):
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Upload what hiddenkey trained"
        )
    return str(address)


@contextmanager
def _reported(name: str, otherwise: str) -> Iterator[None]:
    """Turn what the hub's library raises into a ConfigError."""
    try:
        yield
    except Exception as error:  # of the network, the account, the hub's rules
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"push_to_hub to {name!r} failed ({reason}); check the network and the account, or"
            f" {otherwise}"
        ) from error
