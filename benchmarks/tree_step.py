"""The process of one tree in `trees.py`: a step of a model for every line that it is sent, and a line for an answer."""

import sys

import torch
from torch.nn import functional as F

import zoo


def main(name: str, mode: str, dtype: str, batch: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    model = zoo.create_model(name, drop_path_rate=0.0).to(getattr(torch, dtype)).train(mode == "train")
    x = torch.randn(int(batch), *model.input_size, dtype=getattr(torch, dtype))
    target = torch.zeros(int(batch), dtype=torch.long)

    def step() -> None:
        if mode == "create":
            zoo.create_model(name)
        elif mode == "train":
            F.cross_entropy(model(x), target).backward()
            model.zero_grad()
        else:
            with torch.inference_mode():
                model(x)

    for _ in sys.stdin:
        step()
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
