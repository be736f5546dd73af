"""A Hub of its own on this machine: a process that answers what huggingface_hub's client asks, from plain folders.

A repository is a folder, ``FOLDER/owner/name``, with a folder for each revision (``main``, ``v1``) that has the files.
What goes wrong says ``FOLDER/owner/name/faults.json``: by the kind of fault, how many requests still get it; null for
all of them. What was asked is a line each in ``FOLDER/asked.jsonl``. Run with FOLDER, it prints its port.
"""

import functools
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".safetensors", ".bin", ".pth", ".npz")  # files that lie in storage: their ETag is the SHA-256 of their content
TOKEN = "hf_good"  # who has it may read what is gated
FAULTS, ASKED = "faults.json", "asked.jsonl"
LARGE = 2**20  # bytes
REFUSALS = {  # kinds of faults that are answers: status, headers
    "gated": (401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}),
    "429": (429, {"Retry-After": "0"}),
    "503": (503, {"Retry-After": "0"}),
}
# The others change the body of a file in storage: its first half alone, the connection cut there, other bytes, late.
BODIES = ("short", "cut", "wrong", "slow")


class Answer(Exception):
    """What a request is answered, from however deep it is raised."""

    def __init__(self, status: int, body: object = None, headers: dict | None = None):
        self.status, self.headers = status, headers or {}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


class Repository:
    """A repository of the server, at a revision.

    Raises:
        Answer: There is none of that name, or of that revision, or it has a fault.
    """

    def __init__(self, handler: "Handler", name: str, revision: str = "main"):
        self.name, self.folder = name, handler.server.folder / name
        known = handler.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not self.folder.is_dir():
            raise Answer(404 if known else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        for kind, (status, headers) in REFUSALS.items():
            if not (kind == "gated" and known) and fault_of(handler, name, kind):
                other = kind == "gated" and "Authorization" in handler.headers  # of one who is known, and may not
                raise Answer(403 if other else status, {"error": kind}, headers)
        revisions = {path.name: path for path in self.folder.iterdir() if path.is_dir()}
        self.path = revisions.get(revision)
        if self.path is None:
            self.path = next((path for path in revisions.values() if commit_of(path) == revision), None)
        if self.path is None:
            raise Answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        self.commit = commit_of(self.path)

    def file(self, name: str) -> Path:
        """One of its files.

        Raises:
            Answer: There is none of that name.
        """
        if not (path := self.path / name).is_file():
            raise Answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", **self.headers})
        return path

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Repo-Commit": self.commit}

    def entries(self) -> list[dict]:
        """Its files, as lists of them have them."""
        return [entry_of(path, self.path) for path in files_of(self.path)]


def fault_of(handler: "Handler", name: str, *kinds: str) -> str | None:
    """The first of these faults that a repository has, of which one less is left then."""
    with handler.server.lock:
        path = handler.server.folder / name / FAULTS
        faults = json.loads(path.read_text()) if path.exists() else {}
        for kind in kinds:
            if kind in faults and faults[kind] != 0:
                if faults[kind] is not None:
                    faults[kind] -= 1
                path.write_text(json.dumps(faults))
                return kind
    return None


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def oid_of(data: bytes) -> str:
    """As git has it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag_of(path: Path) -> str:
    status = path.stat()
    return _hash_of(path, status.st_mtime_ns) if status.st_size > LARGE else _hash_of.__wrapped__(path, 0)


@functools.lru_cache(maxsize=64)
def _hash_of(path: Path, written: int) -> str:
    """Kept for what is large, since every answer tells the commit, which follows from all files."""
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest() if path.suffix in LFS else oid_of(data)


def commit_of(folder: Path) -> str:
    """Follows from what the files hold."""
    parts = [f"{path.relative_to(folder)} {etag_of(path)}" for path in files_of(folder)]
    return hashlib.sha1("\n".join(parts).encode()).hexdigest()


def entry_of(path: Path, folder: Path) -> dict:
    size, etag = path.stat().st_size, etag_of(path)
    entry = {"type": "file", "path": path.relative_to(folder).as_posix(), "size": size, "oid": etag}
    if path.suffix not in LFS:
        return entry
    return {**entry, "oid": oid_of(etag.encode()), "lfs": {"oid": etag, "size": size, "pointerSize": 134}}


# --- Routes: by method and path, what answers -------------------------------------------------------------------------

ROUTES = []
MODEL = r"/api/models/(?P<name>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"


def route(methods: str, pattern: str):
    """Registers a function that is called with the handler and the pattern's groups, and raises an `Answer`."""

    def register(function):
        ROUTES.append((methods.split(), re.compile(pattern), function))
        return function

    return register


@route("GET HEAD", rf"/(?P<name>[^/]+/[^/]+)/resolve/{REVISION}/(?P<file>.+)")
def resolve(handler: "Handler", name: str, revision: str, file: str) -> None:
    repository = Repository(handler, name, revision)
    path = repository.file(file)
    headers = {**repository.headers, "ETag": f'"{etag_of(path)}"', "Accept-Ranges": "bytes"}
    if path.suffix not in LFS:
        send_file(handler, path, headers)
    headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(path.stat().st_size)}
    # To another host, as the Hub's storage is: tokens are not to go there.
    place = f"http://localhost:{handler.server.server_port}/storage/{name}/{repository.commit}/{file}"
    raise Answer(302, b"", {**headers, "Location": place})


@route("GET HEAD", rf"/storage/(?P<name>[^/]+/[^/]+)/{REVISION}/(?P<file>.+)")
def storage(handler: "Handler", name: str, revision: str, file: str) -> None:
    if "Authorization" in handler.headers:
        raise Answer(400, {"error": "a token was sent to the storage"})
    path = handler.server.folder / name
    path = next(each for each in path.iterdir() if each.is_dir() and commit_of(each) == revision) / file
    fault = fault_of(handler, name, *BODIES) if handler.command == "GET" else None
    send_file(handler, path, {"ETag": f'"{etag_of(path)}"', "Accept-Ranges": "bytes"}, fault)


@route("GET", rf"{MODEL}(?:/revision/{REVISION})?")
def info(handler: "Handler", name: str, revision: str | None) -> None:
    repository = Repository(handler, name, revision or "main")
    siblings = [{"rfilename": entry["path"]} for entry in repository.entries()]
    facts = {"id": name, "modelId": name, "sha": repository.commit, "private": False, "gated": False, "tags": []}
    raise Answer(200, {**facts, "siblings": siblings})


@route("GET", rf"{MODEL}/tree/{REVISION}")
def tree(handler: "Handler", name: str, revision: str) -> None:
    raise Answer(200, Repository(handler, name, revision).entries())


@route("POST", rf"{MODEL}/paths-info/{REVISION}")
def paths_info(handler: "Handler", name: str, revision: str) -> None:
    wanted = parse_qs(handler.content.decode()).get("paths", [])
    raise Answer(200, [entry for entry in Repository(handler, name, revision).entries() if entry["path"] in wanted])


def send_file(handler: "Handler", path: Path, headers: dict, fault: str | None = None) -> None:
    """A file, or the range of it that is wanted; with a fault, not that."""
    data, status = path.read_bytes(), 200
    headers = {"Content-Type": "application/octet-stream", **headers}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if wanted and handler.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
        first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if first > last:
            raise Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        data, status = data[first : last + 1], 206
    if fault == "short":
        data = data[: len(data) // 2]
    elif fault == "wrong":
        data = data[:-1] + bytes([data[-1] ^ 1])
    elif fault in ("cut", "slow"):
        handler.begin(status, headers, len(data))
        half = len(data) // 2
        handler.wfile.write(data[:half])
        handler.wfile.flush()
        if fault == "slow":
            time.sleep(0.5)
            handler.wfile.write(data[half:])
        handler.close_connection = True
        return
    raise Answer(status, data, headers)


class Handler(BaseHTTPRequestHandler):
    """Answers by the routes."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        with self.server.lock, open(self.server.folder / ASKED, "a") as file:
            file.write(json.dumps([self.command, self.path, self.headers.get("Range")]) + "\n")
        try:
            for methods, pattern, function in ROUTES:
                if self.command in methods and (found := pattern.fullmatch(parts.path)):
                    groups = {key: value and unquote(value) for key, value in found.groupdict().items()}
                    function(self, **groups)
                    return
            raise Answer(404, {"error": f"no route for {self.command} {self.path}"})
        except Answer as answer:
            self.begin(answer.status, answer.headers, len(answer.body))
            if self.command != "HEAD":
                self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def begin(self, status: int, headers: dict, size: int) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers, "Content-Length": size}.items():
            self.send_header(key, str(value))
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


# --- For tests --------------------------------------------------------------------------------------------------------


class Hub:
    """The server's process as a test sees it.

    Attributes:
        folder: Where the repositories lie.
        address: What is to be HF_ENDPOINT.
    """

    def __init__(self, folder: Path, port: int):
        self.folder, self.address = folder, f"http://127.0.0.1:{port}"

    def put(self, name: str, files: dict[str, bytes | Path], revision: str = "main") -> Path:
        """Puts files into a revision of a repository; gives its folder."""
        folder = self.folder / name / revision
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content.read_bytes() if isinstance(content, Path) else content)
        return folder

    def fault(self, name: str, **faults: int | None) -> None:
        """Gives a repository faults, and no others; those that are numbers begin with ``n``."""
        faults = {kind.removeprefix("n"): times for kind, times in faults.items()}
        assert faults.keys() <= {*REFUSALS, *BODIES}
        (self.folder / name / FAULTS).write_text(json.dumps(faults))

    def asked(self, name: str = "") -> list[list]:
        """Of the requests for a repository: method, path and range."""
        path = self.folder / ASKED
        lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
        return [line for line in lines if name in line[1]]


def reached_at(monkeypatch, address: str) -> None:
    """What HF_ENDPOINT sets when the client is imported, for the process of the test itself."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@contextmanager
def serving(folder: Path, program: str = __file__) -> Iterator[Hub]:
    """The server's process, until the end of the body: of this file, or of one that has more routes."""
    process = subprocess.Popen([sys.executable, program, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        yield Hub(folder, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()


def main(folder: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.lock, server.daemon_threads = folder, threading.Lock(), True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
