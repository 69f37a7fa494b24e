#!/usr/bin/env bash
# Installs this checkout: locked packages, the package itself, editable, and the git hooks.
#
#   ./scripts/setup.sh              into the activated virtual environment, else into .venv
#   ./scripts/setup.sh --no-hooks   leaves git alone
#
# Nothing happens when the environment is up to date.
#   VENV=path     the virtual environment to use; made if it isn't there
#   PYTHON=path   the Python to make it with, 3.11 or newer
#   EXTRA=cuda13  on Linux: the NVIDIA build of MLX (default: cpu)
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-${VIRTUAL_ENV:-.venv}}
STAMP="$VENV/.mlx-websockets-setup" # which lock file was installed, and sums of it and of pyproject.toml
installed_lock='' installed_sum='' installed_project=''
if [ -f "$STAMP" ]; then read -r installed_lock installed_sum installed_project < "$STAMP"; fi
remembered=${installed_lock#requirements/linux-}
EXTRA=${EXTRA:-${remembered%.lock}}
EXTRA=${EXTRA:-cpu}
HOOKS=yes
[ "${1:-}" = "--no-hooks" ] && HOOKS=no

fail() { # what and why, then what to do next
  printf '✗ %s\n→ %s\n' "$1" "$2" >&2
  exit 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

choose_lock() {
  case "$(uname -s) $(uname -m)" in
    "Darwin arm64") LOCK=requirements/macos.lock SIZE="260 MB" ;;
    Darwin*) fail "MLX needs a Mac with Apple Silicon, and a Python built for it; this one says $(uname -m)." \
      "Leave Rosetta, or use Linux." ;;
    *)
      LOCK=requirements/linux-$EXTRA.lock SIZE="310 MB"
      [ "$EXTRA" != cuda13 ] || SIZE="2.4 GB"
      ;;
  esac
  [ -f "$LOCK" ] || fail "There is no lock file for EXTRA=$EXTRA." "Try EXTRA=cpu or EXTRA=cuda13."
}

choose_python() {
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || fail "There is no Python at $PYTHON." "Give PYTHON=… the path of one, 3.11 or newer."
    is_new_enough "$PYTHON" && return
    fail "$PYTHON is $("$PYTHON" --version 2>&1), but mlx-websockets needs Python 3.11 or newer: its libraries do." \
      "Give PYTHON=… the path of a newer one."
  fi
  for PYTHON in python3 python3.13 python3.12 python3.11 python3.14; do
    is_new_enough "$PYTHON" && return
  done
  fail "No Python 3.11 or newer was found (python3 is $(python3 --version 2>&1 || true))." \
    "Install one, or give PYTHON=… the path of one: make PYTHON=/path/to/python3.12 setup"
}

make_environment() {
  if [ -x "$VENV/bin/python" ]; then
    is_new_enough "$VENV/bin/python" && return
    fail "The virtual environment $VENV has $("$VENV/bin/python" --version 2>&1); Python 3.11 or newer is needed." \
      "Remove $VENV, or choose another with VENV=…"
  fi
  choose_python
  echo "→ Making the virtual environment $VENV with $("$PYTHON" --version 2>&1)"
  "$PYTHON" -m venv "$VENV" || fail "$PYTHON can't make virtual environments." "On Debian and Ubuntu: apt install python3-venv"
}

install_packages() {
  echo "→ Installing $(grep -c '==' "$LOCK") packages of $LOCK into $VENV"
  echo "  The first time this downloads about $SIZE through pip; later ones come from pip's cache."
  if [ -n "$installed_lock" ] && [ "$installed_lock" != "$LOCK" ]; then
    # The builds of MLX own the same files: the old one has to go before the new one comes.
    "$VENV/bin/python" -m pip uninstall --quiet --yes mlx-cpu mlx-cuda-12 mlx-cuda-13
  fi
  # The lock file is whole, so nothing is resolved: pip would look for newer releases where a package asks for an extra.
  # Compiling every module takes as long as all the rest; Python compiles those that are used.
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile --no-deps --require-hashes -r "$LOCK"
}

install_checkout() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
}

install_hooks() {
  git rev-parse --git-dir >/dev/null 2>&1 || return 0
  if git config --get core.hooksPath >/dev/null; then
    echo "! git's core.hooksPath is set, so the hooks were not installed"
    return 0
  fi
  "$VENV/bin/pre-commit" install --hook-type pre-commit --hook-type pre-push >/dev/null
  echo "✓ git hooks: format, lint and types before a commit; the tests before a push"
}

sum_of() { cksum < "$1" | tr ' ' -; }
choose_lock
sum=$(sum_of "$LOCK") project=$(sum_of pyproject.toml)
if [ "$LOCK $sum $project" != "$installed_lock $installed_sum $installed_project" ] || [ ! -x "$VENV/bin/mlx" ]; then
  make_environment
  [ "$LOCK $sum" = "$installed_lock $installed_sum" ] || install_packages
  install_checkout
  printf '%s %s %s\n' "$LOCK" "$sum" "$project" > "$STAMP"
  echo "✓ mlx-websockets is installed in $VENV"
elif [ "$HOOKS" = yes ]; then
  echo "✓ $VENV is up to date"
fi
[ "$HOOKS" = no ] || install_hooks
