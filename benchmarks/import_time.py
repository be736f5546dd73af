"""Seconds of `import zoo` over `import timm`, each in fresh processes in turn: `python benchmarks/import_time.py`."""

import statistics
import subprocess
import sys

CODE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def main(rounds: int = 9) -> None:
    times = {"timm": [], "zoo": []}
    for i in range(rounds + 1):
        for module in times:
            out = subprocess.run(
                [sys.executable, "-c", CODE.format(module)], capture_output=True, text=True, check=True
            )
            if i:  # the first round reads the files from the disk
                times[module].append(float(out.stdout))
    ratio = statistics.median(z / t for t, z in zip(*times.values(), strict=True))
    print(
        f"import timm {statistics.median(times['timm']):.2f} s, import zoo {statistics.median(times['zoo']):.2f} s "
        f"of CPU time, median ratio {ratio:.3f} of {rounds} rounds"
    )


if __name__ == "__main__":
    main()
