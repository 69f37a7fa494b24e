"""Eyes between or beyond others: `python -m scripts.demo_model.blend OUT.npz A.npz=0.5 B.npz=0.5`.

Eyes of which one was trained on from the other differ little in each weight. Between the two lies often what
one has learnt and the other has not yet forgotten; beyond the newer, at 1.3 of it and -0.3 of the older, what
training on would have led to.
"""

import sys

import numpy as np


def main(out: str, *given: str) -> None:
    """Raises SystemExit where the shares are not 1 together."""
    paths, shares = zip(*(each.rsplit("=", 1) for each in given), strict=True)
    weights = [float(share) for share in shares]
    if abs(sum(weights) - 1) > 1e-6:
        raise SystemExit(f"The shares are {sum(weights):g} together; they have to be 1.")
    eyes = [np.load(path) for path in paths]
    blend = {
        name: sum(weight * each[name].astype(np.float32) for weight, each in zip(weights, eyes, strict=True))
        for name in eyes[0]
    }
    np.savez(out, **{name: np.asarray(value).astype(np.float16) for name, value in blend.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
