"""The Hub on this machine, which takes uploads too: `server.py` with the routes by which the client makes commits.

Who has `TOKEN` may write, who has another may not, and who has none is not known. Large files come by the LFS way: the
client asks where to put them, puts them there, and names them in the commit, which takes effect whole or not at all.
"""

import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path

from server import LFS, MODEL, REVISION, TOKEN, Answer, Handler, Repository, commit_of, fault_of, main, route

OBJECTS = ".objects"  # where files lie that were put and that no commit may name yet, a folder a repository


def check_writer(handler: Handler) -> None:
    if "Authorization" not in handler.headers:
        raise Answer(401, {"error": "Invalid username or password."})
    if handler.headers["Authorization"] != f"Bearer {TOKEN}":
        raise Answer(403, {"error": "You don't have the rights to do this."})


def address(handler: Handler, path: str) -> str:
    return f"http://{handler.headers['Host']}/{path}"


@route("POST", "/api/repos/create")
def create(handler: Handler) -> None:
    check_writer(handler)
    wanted = json.loads(handler.content)
    name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
    folder = handler.server.folder / name / "main"
    status = 409 if folder.is_dir() else 200
    folder.mkdir(parents=True, exist_ok=True)
    raise Answer(status, {"url": address(handler, name), "name": name})


@route("POST", "/api/validate-yaml")
def validate(handler: Handler) -> None:
    raise Answer(200, {"errors": [], "warnings": []})


@route("POST", rf"{MODEL}/branch/{REVISION}")
def branch(handler: Handler, name: str, revision: str) -> None:
    check_writer(handler)
    folder = Repository(handler, name).folder
    if (folder / revision).is_dir():
        raise Answer(409, {"error": "it is there"})
    shutil.copytree(folder / "main", folder / revision)
    raise Answer(200, {})


@route("POST", rf"{MODEL}/preupload/{REVISION}")
def preupload(handler: Handler, name: str, revision: str) -> None:
    check_writer(handler)
    Repository(handler, name, revision)
    paths = [file["path"] for file in json.loads(handler.content)["files"]]
    files = [{"path": p, "uploadMode": "lfs" if p.endswith(LFS) else "regular", "shouldIgnore": False} for p in paths]
    raise Answer(200, {"files": files})


@route("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
def batch(handler: Handler, name: str) -> None:
    check_writer(handler)
    Repository(handler, name)
    objects = []
    for each in json.loads(handler.content)["objects"]:
        there = (handler.server.folder / OBJECTS / name / each["oid"]).exists()
        place = {"upload": {"href": address(handler, f"put/{name}/{each['oid']}")}}
        objects.append(each if there else {**each, "actions": place})
    raise Answer(200, {"transfer": "basic", "objects": objects})


@route("PUT", r"/put/(?P<name>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
def put(handler: Handler, name: str, oid: str) -> None:
    if fault_of(handler, name, "cut"):
        handler.close_connection = True
        return
    if hashlib.sha256(handler.content).hexdigest() != oid:
        raise Answer(400, {"error": "another hash"})
    place = handler.server.folder / OBJECTS / name / oid
    place.parent.mkdir(exist_ok=True, parents=True)
    place.write_bytes(handler.content)
    raise Answer(200, {})


@route("POST", rf"{MODEL}/commit/{REVISION}")
def commit(handler: Handler, name: str, revision: str) -> None:
    check_writer(handler)
    repository = Repository(handler, name, revision)
    proposed = "create_pr" in handler.path
    target = repository.folder / "pr-1" if proposed else repository.path
    new = repository.folder.parent / f".{repository.folder.name}-new"
    shutil.copytree(repository.path, new)
    for line in map(json.loads, handler.content.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            (new / value["path"]).write_bytes(base64.b64decode(value["content"]))
        elif line["key"] == "lfsFile":
            shutil.copy(handler.server.folder / OBJECTS / name / value["oid"], new / value["path"])
        elif line["key"] == "deletedFile":
            (new / value["path"]).unlink()
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    facts = {"success": True, "commitOid": commit_of(target), "hookOutput": ""}
    page = address(handler, f"{name}/discussions/1")
    facts |= {"commitUrl": address(handler, f"{name}/commit/{facts['commitOid']}"), "pullRequestUrl": page}
    raise Answer(200, facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
