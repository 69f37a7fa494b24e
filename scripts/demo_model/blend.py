"""The mean of several eyes: `python -m scripts.demo_model.mean A.npz B.npz OUT.npz`.

Eyes of which one was trained on from the other mean nearly the same by each weight. What one has learnt and
the other has not yet forgotten is often in their mean.
"""

import sys

import numpy as np


def main(*paths: str) -> None:
    *given, out = paths
    eyes = [np.load(path) for path in given]
    means = {name: np.mean([each[name].astype(np.float32) for each in eyes], axis=0) for name in eyes[0]}
    np.savez(out, **{name: mean.astype(np.float16) for name, mean in means.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
