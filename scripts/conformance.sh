#!/usr/bin/env bash
# Tries the Autobahn cases on the server's own listener, with an echo behind it, and writes what
# came out to benchmarks/results/. Fails unless every case passes but those that are known.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${VENV:-.venv}/bin/python"
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/conformance.lock

"$python" -m benchmarks.conformance.echo > "$work/port" &
server=$!
for _ in $(seq 100); do
  [ -s "$work/port" ] && break
  sleep 0.1
done
[ -s "$work/port" ] || { echo "The echo server did not start." >&2; exit 1; }

# 12 and 13 are about compression, which the server does not offer. It exits 1 if any case fails; the report judges.
"$work/venv/bin/kosoku" -p 4 -x '12.*' -x '13.*' -o "$work/out" "127.0.0.1:$(cat "$work/port")" > "$work/log" 2>&1 || true
"$python" -m benchmarks.conformance.report "$work/out" || { tail -20 "$work/log"; exit 1; }
