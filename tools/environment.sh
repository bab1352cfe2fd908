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

make_environment "$@"
. .venv/bin/activate
