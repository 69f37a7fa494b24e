#!/bin/sh
# Makes an environment of its own for each peer that can't share ours: `benchmarks/peers/install.sh [NAME ...]`.
# One that can't be installed is left out, and its last words are kept for the results.
set -u
cd "$(dirname "$0")/../.."
python=$(command -v "${PYTHON:-.venv/bin/python}")
folder=${PEERS:-$HOME/.cache/mlx-websockets/peers}
[ $# -gt 0 ] || set -- vllm-mlx==0.6.0 rapid-mlx==0.16.10

for wanted in "$@"; do
    peer=$folder/${wanted%%=*}
    rm -rf "$peer"
    mkdir -p "$peer"
    echo "$wanted into $peer"
    "$python" -m venv "$peer/venv" &&
        "$peer/venv/bin/python" -m pip install --quiet --prefer-binary 'mlx[cpu]' "$wanted" >"$peer/install.log" 2>&1 ||
        { echo "could not be installed:"; tail -5 "$peer/install.log"; mv "$peer/venv" "$peer/broken"; }
done
