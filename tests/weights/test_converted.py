"""Files at addresses: what a server does not send whole is not kept; what is no safetensors becomes such once."""

import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import randomised
from safetensors.torch import save_file

import zoo
from zoo.weights.converted import FOLDER, read_converted
from zoo.weights.fetch import is_fetched


@contextmanager
def answering(answer: bytes, *, silent: bool = False):
    """A server that answers anything so, and then hangs up or says nothing more; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        open_ = []

        def serve():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.recv(65536)
                connection.sendall(answer)
                open_.append(connection) if silent else connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/w.pth"
        listening.shutdown(socket.SHUT_RDWR)
        for connection in open_:
            connection.close()
    thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 400


@pytest.mark.parametrize(
    "answer, silent, words",
    [(HEAD, False, "sent 400 of 1000 bytes"), (HEAD, True, "timed out"), (b"", True, "timed out"), (b"x", False, "")],
)
def test_an_answer_that_is_not_whole_is_told_and_not_kept(answer, silent, words, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.weights.web.TIMEOUT", 0.2)
    told = f"mixer_test could not be fetched from http.*{words}.*local-dir:"
    with answering(answer, silent=silent) as address, pytest.raises(ValueError, match=told):
        overlay = {"url": address}
        zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def state():
    return randomised(zoo.create_model("mixer_test")).state_dict()


@pytest.mark.parametrize("kind", [".pth", ".bin", ".npz"])
def test_files_are_converted_by_what_they_hold(kind, state, tmp_path):
    path, folder = tmp_path / f"w ü{kind}", tmp_path / "cache" / FOLDER
    for times, change in ((1, 0.0), (2, 1.0)):
        values = {key: value + change for key, value in state.items()}
        if kind == ".npz":
            np.savez(path, **{key: value.numpy() for key, value in values.items()})
        else:
            tied = {**values, "tied": values["head.weight"].T}  # memory that two share, and a view
            torch.save({"state_dict": tied, "epoch": 3}, path)
        for _ in range(2):
            found = read_converted(path, "https://a.org/w", tmp_path / "cache")
            assert all(torch.equal(found[key], value) for key, value in values.items())
        assert len(list(folder.iterdir())) == times
    read_converted(path, "https://b.org/w", tmp_path / "cache")  # the same file, from elsewhere
    names = [each.name for each in folder.iterdir()]
    assert len(names) == 3 and all(name.startswith("w__.") and name.endswith(".safetensors") for name in names)


def test_safetensors_are_read_where_they_are(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    assert read_converted(tmp_path / "w.safetensors", "a", tmp_path / "cache").keys() == state.keys()
    assert not (tmp_path / "cache").exists()


def test_where_nothing_can_be_written_the_file_is_read(state, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    (tmp_path / "cache").write_text("no folder")
    assert read_converted(tmp_path / "w.pth", "a", tmp_path / "cache").keys() == state.keys()


@pytest.mark.parametrize(
    "place, fetched",
    {
        "hf-hub:timm/mixer_b16_224.goog_in21k": True,
        "hf-hub:adamdad/kat_pretained/kat.pth": True,
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.5/mlp.pth": True,
        "https://a.org/w.pth.tar#sha256=0123": True,
        "https://a.org/w.npz?download=1": True,
        "https://a.org/w.zip": False,
        "https://a.org/w.tar?x=1": False,
        "https://drive.google.com/file/d/1a2b/view": False,
        "https://drive.usercontent.google.com/download?id=1a2b&export=download&confirm=t": True,
        "https://pan.baidu.com/s/1a2b?pwd=1234": False,
        "gs://vmoe_checkpoints/vmoe_s32": False,
    }.items(),
)
def test_what_is_fetched_and_what_is_left_to_convert(place, fetched):
    assert is_fetched(place) is fetched
    if not fetched:
        with pytest.raises(
            ValueError, match="mixer_test are at .* no single file of weights: .*zoo convert FILE.* --as mixer"
        ):
            zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay={"url": place})
