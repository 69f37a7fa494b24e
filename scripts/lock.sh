#!/usr/bin/env bash
# Writes requirements/*.lock: every package with its version and hashes, no index address.
# Run it after a change of the dependencies in pyproject.toml; `--upgrade` also moves what stands.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -z "${UV:-}" ]; then
  "${PYTHON:-python3}" -m venv "$work/venv"
  "$work/venv/bin/python" -m pip install --quiet uv
  UV="$work/venv/bin/uv"
fi

# One lock serves every supported Python of one platform, so it is resolved "universally"
# and then narrowed by a marker; uv reads that marker only from a pyproject.toml.
lock() {
  local name=$1 environment=$2
  shift 2
  { cat pyproject.toml; printf '\n[tool.uv]\nenvironments = ["%s"]\n' "$environment"; } > "$work/pyproject.toml"
  cp "requirements/$name.lock" "$work/$name.lock" 2>/dev/null || true # what stands is kept where it can be
  (cd "$work" && "$UV" pip compile pyproject.toml --group dev "$@" --quiet --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
    --custom-compile-command scripts/lock.sh --output-file "$name.lock")
  cp "$work/$name.lock" "requirements/$name.lock"
  echo "requirements/$name.lock: $(grep -c '==' "requirements/$name.lock") packages"
}

mkdir -p requirements
lock linux-cpu "sys_platform == 'linux'" --extra cpu "$@"
lock linux-cuda13 "sys_platform == 'linux'" --extra cuda13 "$@"
lock macos "sys_platform == 'darwin' and platform_machine == 'arm64'" "$@"

# What drives a browser in the tests of the page goes on top of any of them.
"$UV" pip compile --group page "$@" --quiet --universal --python-version 3.11 --constraint requirements/linux-cpu.lock \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
  --custom-compile-command scripts/lock.sh --output-file requirements/page.lock
echo "requirements/page.lock: $(grep -c '==' requirements/page.lock) packages"
