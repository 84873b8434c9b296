# Sourced by ./run and ./test: installs the packages that a fresh Debian or Ubuntu with Rust needs for building.

log() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

# Installs the named Debian packages whose command (before the colon) is missing: need cc:build-essential
need() {
  local missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
}

# Installs Debian packages.
install() {
  command -v apt-get >/dev/null 2>&1 || { echo "please install: $*" >&2; exit 1; }
  log "installing $*"
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -q
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}

# Rust is the only prerequisite.
command -v cargo >/dev/null 2>&1 || { echo "please install Rust first: https://rustup.rs" >&2; exit 1; }
need cc:build-essential
