# Sourced by the other scripts: makes .venv from the pinned requirements once, and activates it.
# Usage: . tools/environment.sh requirements.txt [more.txt …]

make_environment() {
  local stamp=.venv/.installed wanted
  wanted=$(cat "$@" | cksum)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
  echo "Installing $* into .venv (once) …"
  [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
  local arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  if command -v uv >/dev/null 2>&1; then
    # pip compiles what it installs, uv when told to: else every start compiles it anew where Python may not write caches.
    uv pip install --quiet --compile-bytecode --python .venv/bin/python "${arguments[@]}"
  else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
  fi
  echo "$wanted" >"$stamp"
}

# Packages of one file in a folder of their own, for those who put it on PYTHONPATH.
install_beside() {
  local wanted
  wanted=$(cat "$1" | cksum)
  if [ -f "$2/.installed" ] && [ "$(cat "$2/.installed")" = "$wanted" ]; then return; fi
  rm -rf "$2"
  if command -v uv >/dev/null 2>&1; then
    uv pip install --quiet --compile-bytecode --no-deps --python .venv/bin/python --target "$2" -r "$1" || return 1
  else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$2" -r "$1" || return 1
  fi
  echo "$wanted" >"$2/.installed"
}

make_environment "$@"
. .venv/bin/activate
