"""Every promise, one after the other, and the report: `python -m benchmarks.acceptance [NAME ...]`."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.acceptance import cancels, fidelity, frames, kills, malformed, neighbours, pictures, streaming
from benchmarks.acceptance.report import Outcome, write_report


def check_fidelity() -> Outcome:
    from tests.tiny_models.tiny_gemma3 import write_tiny_gemma3

    from mlx_websockets.engine.worker import demo

    with tempfile.TemporaryDirectory() as folder:
        write_tiny_gemma3(Path(folder))
        return fidelity.run(demo.smollm2_text_model(lambda _: None), Path(folder))


PROMISES: dict[str, Callable[[], Outcome]] = {
    "pictures": pictures.run,
    "streaming": streaming.run,
    "fidelity": check_fidelity,
    "neighbours": neighbours.run,
    "cancels": cancels.run,
    "malformed": malformed.run,
    "kills": kills.run,
    "frames": frames.run,
}


def main() -> int:
    names = sys.argv[1:] or list(PROMISES)
    outcomes = []
    for name in names:
        print(f"… {name}", flush=True)
        outcomes.append(PROMISES[name]())
        outcomes[-1].show()
    if names == list(PROMISES):
        write_report("acceptance", "python -m benchmarks.acceptance", outcomes)
    return 0 if all(outcome.kept for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
