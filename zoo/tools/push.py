"""To the Hub: a model as `zoo.save_pretrained` writes it, with a page that tells of it, by the Hub's own client."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from zoo import version
from zoo.checks import check_type, printable, shown
from zoo.create import create_model
from zoo.hub import save_pretrained
from zoo.hub.config import CONFIG
from zoo.tools.readme import Training, is_own, readme
from zoo.weights.inverse import same
from zoo.weights.repository import reason_of

PAGE = "README.md"
# What the weights of a model are called in a repository: those of an older one would be found before the new.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Add a model",
    create_pr: bool = False,
    licence: str | None = None,
    training: Training | None = None,
    page: str | None = None,
    max_shard_size: int | str = "5GB",
) -> Any:
    """Save a model into a repository on the Hub, as one commit, so that ``zoo.create_model("hf-hub:…")`` gives it back.

    It is saved into a temporary folder first, opened again and compared; the repository has the old model or the new
    one, whole. A model that timm has too is opened by timm and transformers without zoo (see `zoo.save_pretrained`).
    A README.md that somebody else wrote there, or has changed, stays.

    Args:
        model: A model of `zoo.create_model`.
        repo_id: ``owner/name``; made if it is not there.
        token: Of who may write there; by default what HF_TOKEN or ``hf auth login`` say.
        private: Whether a repository that is made is private; by default what its owner has chosen.
        revision: The branch; made if it is not there. By default the repository's main one.
        commit_message: The first line of the commit.
        create_pr: Propose the commit to the repository's owner.
        licence: Of the weights, as the Hub writes it, such as ``mit``; by default that of the released weights the
            model began with, if it did and their configuration says one.
        training: How it was trained, for the page.
        page: The text of a README.md of your own, in place of the one that zoo writes.
        max_shard_size: As in `zoo.save_pretrained`.

    Returns:
        huggingface_hub's ``CommitInfo``: the commit, its address, the pull request.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: It cannot be saved; or the Hub does not take it, which leaves the repository as it was.
    """
    from huggingface_hub import HfApi  # slow to import

    for name, value in {"repo_id": repo_id, "commit_message": commit_message}.items():
        check_type(name, value, str)
    for name, value in {"revision": revision, "licence": licence, "page": page}.items():
        check_type(name, value, str | None)
    api = HfApi(token=token, library_name="zoo", library_version=version.__version__)
    with TemporaryDirectory(prefix="zoo-push-") as place:
        folder = Path(place) / "model"
        save_pretrained(model, folder, max_shard_size)
        _check_opens(model, folder)
        if page is None:
            config = json.loads((folder / CONFIG).read_text("utf-8"))
            licence = licence or config["pretrained_cfg"].get("license")
            licence = licence and licence.lower()
            page, theirs = readme(model, repo_id, config, licence=licence, training=training), True
        else:
            theirs = False
        with _told(repo_id, revision):
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            if not (theirs and _has_own_page(api, repo_id, revision, Path(place))):
                (folder / PAGE).write_text(page, encoding="utf-8")
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
                delete_patterns=list(WEIGHTS),
            )


def _check_opens(model: nn.Module, folder: Path) -> None:
    """Check that what lies in a folder is the model.

    Raises:
        OSError: It is not.
    """
    again = create_model(f"local-dir:{folder}", bounded=False).state_dict()
    state = {key: value.detach().cpu().to(again[key].dtype) for key, value in model.state_dict().items()}
    if not all(same(again[key], value) for key, value in state.items()):
        raise OSError(f"{folder} does not hold the model that was written to it; nothing is sent. Check the disk")


def _has_own_page(api: Any, repo_id: str, revision: str | None, place: Path) -> bool:
    """Whether a repository has a README.md that is not zoo's alone."""
    if not api.file_exists(repo_id, PAGE, revision=revision):
        return False
    found = api.hf_hub_download(repo_id, PAGE, revision=revision, cache_dir=place / "cache")
    return not is_own(Path(found).read_text("utf-8", errors="replace"))


@contextmanager
def _told(repo_id: str, revision: str | None) -> Iterator[None]:
    """Whatever the Hub's client raises becomes a ValueError that names the repository and says what to do."""
    try:
        yield
    except Exception as error:
        where = printable(f"hf-hub:{repo_id}" + (f"@{revision}" if revision else ""), 300)
        raise ValueError(f"{where} cannot be pushed to, and is as it was: {_meaning(error, repo_id)}") from error


def _meaning(error: Exception, repo_id: str) -> str:
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

    reason = reason_of(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HFValidationError):
        return f"{shown(repo_id)} is no name of a repository; write owner/name ({reason})"
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return (
            "the Hub does not know you. Make a token that may write, in the settings of your account, and give it by "
            f"token=, HF_TOKEN or `hf auth login` ({reason})"
        )
    if status == 403:
        return (
            "your token may not write there. Choose a repository of your own, a token of the kind write, or "
            f"create_pr=True to propose the model to its owner ({reason})"
        )
    return f"{reason}. Try again later: what was sent already is not sent again"
