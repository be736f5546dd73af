"""What the tests of trainings share: a tiny recipe, and a run that dies at a step."""

import pytest

TINY = """\
task: {name: classify}
model: {name: mixer_test, kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 1}}
data: {name: digits, shift: 0.5}
train: {duration: 6st, batch_size: 64, eval_every: 6st, checkpoint_every: 2st, log_every: 1st, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: constant}
expect: {metric: test/top1, status: untested}
"""


class Killed(BaseException):
    """Stands for what ends a process at once: nothing in the trainer may catch it."""


def kill_at(trainer, step):
    """Let the run die before the update of `step`."""
    update = trainer._update

    def dying(number, *batch):
        if number == step:
            raise Killed
        return update(number, *batch)

    trainer._update = dying
    with pytest.raises(Killed):
        trainer.run()
