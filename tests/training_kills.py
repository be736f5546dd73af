"""Two writers and a reader of one run folder; the writers are killed again and again. Run by test_kills.py.

    python training_kills.py RECIPE FOLDER KILLS SEED

It prints what went wrong, a line each, and the number of kills and of finished runs as the last.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

import zoo
from zoo.training import Trainer, load_recipe
from zoo.training.runs.checkpoints import find_checkpoints, read_checkpoint

torch.set_num_threads(1)


def forked(action) -> int:
    """The number of a process that runs `action` and says what it raises."""
    pid, told = os.fork(), os.dup(1)
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            action()
        except BaseException as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            os.write(told, f"{action.__name__}: {said}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(told)
    return pid


def ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def main(recipe_path: str, folder: Path, kills: int, rng: random.Random) -> None:
    recipe, killed, finished = load_recipe(recipe_path), 0, 0
    warnings.simplefilter("ignore")
    Trainer(recipe, folder / "first").run()  # which also imports what the writers need
    trainer = Trainer(recipe, folder / "undisturbed")
    begun = time.monotonic()
    trainer.run()
    length = time.monotonic() - begun
    sys.stdout.flush()

    def write():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        while True:
            try:
                Trainer(recipe, run).run()
                return
            except FileExistsError as error:  # the other writer is at work
                if "another process" not in str(error):
                    raise
                time.sleep(0.002)

    def read():
        """Whatever is there, at any instant, is whole."""
        while True:
            if (run / "metrics.jsonl").exists():
                whole = (run / "metrics.jsonl").read_bytes().rpartition(b"\n")[0]
                steps = [json.loads(line)["step"] for line in whole.splitlines()]
                if steps != sorted(steps):
                    raise RuntimeError(f"records of two runs: {steps}")
            if found := find_checkpoints(run / "checkpoints"):
                try:
                    read_checkpoint(found[-1], ["model", "ema"])
                except (ValueError, FileNotFoundError):
                    if found[-1] in find_checkpoints(run / "checkpoints")[-1:]:
                        raise
            if (run / "model" / "config.json").exists():
                zoo.create_model(f"local-dir:{run / 'model'}")

    while killed < kills:
        run = folder / f"run-{finished}"
        reader, writers = forked(read), [forked(write), forked(write)]
        running = True
        while running and killed < kills:
            time.sleep(rng.uniform(0, length))
            victim = rng.randrange(2)
            running = not ended(writers[victim])
            if running:
                os.kill(writers[victim], signal.SIGKILL)
                killed += 1
                os.waitpid(writers[victim], 0)
                writers[victim] = forked(write)
        for pid in writers if running else [writers[1 - victim]]:
            os.waitpid(pid, 0)  # one of them finds a finished run
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
        finished += 1
    print(killed, finished)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), random.Random(int(sys.argv[4])))
