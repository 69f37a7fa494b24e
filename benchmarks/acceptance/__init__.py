"""What the server promises, shown on a running one.

Each module is one promise: `python -m benchmarks.acceptance.frames`. All of them, with a
report in `benchmarks/results/`: `python -m benchmarks.acceptance`. They talk to `mlx serve`
through a socket, as any peer does, and take minutes: the tests hold shorter versions.
"""
