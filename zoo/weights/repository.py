"""A repository of models on the Hub: asked once, downloaded and kept by the Hub's own client, checked, and told of."""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.checks import printable, shown
from zoo.storage.files import sha256_of

WAYS_OUT = (
    'Without a network, name a file that you have by pretrained_cfg_overlay={"file": "weights.safetensors"}, open a '
    "folder that you have by local-dir:<folder>, or make this call once where there is a network, bring its cache (see "
    "cache_dir) and set HF_HUB_OFFLINE=1"
)


@dataclass(frozen=True)
class Download:
    """A file that was fetched.

    Attributes:
        path: Where it is.
        kept: Whether it was there before.
        digest: The SHA-256 that it should have, or the beginning of it; None if that is not known.
        in_git: The digest is git's instead, as of small files of a repository.
    """

    path: Path
    kept: bool
    digest: str | None = None
    in_git: bool = False

    def damage(self) -> str | None:
        """What is wrong with the file, as far as its hash tells; None if nothing is."""
        if not self.digest or (found := self._hash()).startswith(self.digest):
            return None
        kind = "hash of git" if self.in_git else "SHA-256"
        found = found[: len(self.digest)]
        return f"{printable(self.path)} has a {kind} that begins with {found}, and it should be {self.digest}"

    def _hash(self) -> str:
        if not self.in_git:
            return sha256_of(self.path)
        data = self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Repository:
    """A repository of models on the Hub.

    What concerns the network is the Hub's client's: HF_ENDPOINT, HF_HUB_OFFLINE, tokens, resumed downloads, waiting
    where the Hub asks to, progress bars. It retries for a minute or two where there is no network at all: so the
    repository asks once before, and if there is no answer, what is kept has to do.

    Attributes:
        name: ``owner/name``.
        revision: A branch, a tag or a commit; None for the newest.
        cache_dir: Where the client keeps files; None for its own folder.
    """

    name: str
    revision: str | None = None
    cache_dir: Path | str | None = None

    @classmethod
    def of(cls, text: str, cache_dir: Path | str | None = None) -> "Repository":
        """The one that is called ``owner/name`` or ``owner/name@revision``.

        Example:
            >>> Repository.of("timm/mixer_b16_224.goog_in21k@main").revision
            'main'

        Raises:
            ValueError: Nothing on the Hub can be called so.
        """
        found = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w.-]+(?:/[\w.-]+)*))?", text, re.ASCII)
        if found is None or ".." in text or len(text) > 200:
            raise ValueError(f"{shown(text)} is no repository on the Hub; write owner/name or owner/name@revision")
        return cls(found[1], found[2], cache_dir)

    def __str__(self) -> str:
        return f"hf-hub:{self.name}" + (f"@{self.revision}" if self.revision else "")

    def download(self, *names: str, again: bool = False, most: int | None = None) -> Download:
        """The first of the files that the repository has.

        Args:
            names: Files, the best first.
            again: Fetch it although it is kept.
            most: Bytes that it may have.

        Raises:
            ValueError: There is no such repository, revision or file, it may not be read, no answer came, or what came
                is not what the Hub has; the message says what to do. Nothing of it is kept.
        """
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError  # slow to import

        for name in names:
            try:
                return self._download(name, names, again, most)
            except LocalEntryNotFoundError as error:
                raise ValueError(f"{self}: {name} cannot be had: {self._told(error.__cause__ or error)}") from error
            except EntryNotFoundError:
                continue
            except ValueError:
                raise
            except Exception as error:  # whatever the client raises; what is not foreseen has its own words
                raise ValueError(f"{self}: {name} cannot be had: {self._told(error)}") from error
        raise ValueError(f"{self} has no file {' or '.join(map(printable, names))}; see what it has on the Hub")

    def _download(self, name: str, names: tuple[str, ...], again: bool, most: int | None) -> Download:
        """One of the files, or if the Hub cannot be reached, the first of them that is kept."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError

        facts = None
        try:
            facts = self._ask(name)
        except (EntryNotFoundError, RevisionNotFoundError):
            raise
        except HfHubHTTPError:
            pass  # the client knows for what to wait, and what is kept meanwhile
        except ValueError:  # the client's word on a name
            raise
        except Exception as error:
            if not again and (path := next(filter(None, map(self._kept, names)), None)):
                return Download(path, True)
            raise ValueError(
                f"{self}: {name} cannot be had, since the Hub cannot be reached ({reason_of(error)}). {WAYS_OUT}"
            ) from error
        size = facts and facts.size
        if most is not None and size is not None and size > most:
            raise ValueError(f"{self}: {name} has {size} bytes; {most} are the most for such a file")
        kept = not again and self._kept(name, facts and facts.commit_hash) is not None
        path = hf_hub_download(filename=name, force_download=again, **self._where())
        if facts is None and kept:
            return Download(Path(path), True)
        if facts is None or facts.commit_hash not in Path(path).parts:  # a branch may have moved meanwhile
            facts = self._ask(name)
        known = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", facts.etag or "")
        file = Download(Path(path), kept, known and known[0], in_git=bool(known) and len(known[0]) == 40)
        # A mirror may have a word of its own for what lies in git.
        if not kept and not file.in_git and (damage := file.damage()):
            self._forget(file.path)
            raise ValueError(
                f"{self}: {damage}. It is not kept; try again, and if that does not help, tell the owner of the "
                "repository, or whoever runs HF_ENDPOINT"
            )
        return file

    def _where(self) -> dict[str, Any]:
        return {"repo_id": self.name, "revision": self.revision, "cache_dir": self.cache_dir}

    def _ask(self, name: str) -> Any:
        """What the Hub knows of a file, by one request: its commit, size and hash."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        return get_hf_file_metadata(hf_hub_url(self.name, name, revision=self.revision))

    def _kept(self, name: str, commit: str | None = None) -> Path | None:
        """Where a file is kept, if it is: of the commit, or of what the revision was when it was last asked for."""
        from huggingface_hub import try_to_load_from_cache

        where = {**self._where(), "revision": commit or self.revision}
        return Path(found) if isinstance(found := try_to_load_from_cache(filename=name, **where), str) else None

    def _forget(self, path: Path) -> None:
        """Remove a file from the client's cache: what it has in the name of the commit, and what that points to."""
        with suppress(OSError):
            content = path.resolve()
            path.unlink()
            content.unlink(missing_ok=True)

    def _told(self, error: BaseException) -> str:
        """What an answer of the Hub means, and what to do."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        token = "give a token that may read it, by HF_TOKEN or `hf auth login`"
        if isinstance(error, GatedRepoError):
            return f"who may read the repository is chosen by its owner. Ask for access on its page, and {token}"
        if isinstance(error, RepositoryNotFoundError):
            return f"the Hub has no such repository, or it is private. Check the name; for a private one {token}"
        if isinstance(error, RevisionNotFoundError):
            return f"the repository has no revision {shown(self.revision)}. Name a branch, a tag or a commit of it"
        return f"{reason_of(error)}. Try again later. {WAYS_OUT}"


def reason_of(error: BaseException) -> str:
    """What the network or the Hub's client raised, as a part of a message."""
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}", 400)


def marked(name: str, place: str) -> str:
    """What a file is called where those of many places are kept: its own name, with a mark of the whole place.

    Example:
        >>> marked("a b.pth", "https://a.org/a b.pth")
        'a_b.eb8c5895d1cf8571.pth'
    """
    plain = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".")[-100:] or "weights.pth"
    stem, dot, kind = plain.rpartition(".")
    mark = hashlib.sha256(place.encode()).hexdigest()[:16]
    return f"{stem}.{mark}.{kind}" if dot else f"{plain}.{mark}"
