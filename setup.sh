#!/usr/bin/env bash
# Make or update .venv: `setup.sh run` for what the demo needs, `setup.sh dev` for tests and checks as well.
set -euo pipefail
cd "$(dirname "$0")"
want=${1:-run}
python=${PYTHON:-python3.11}

missing() {
    echo "setup: $1" >&2
    echo "       $2" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    missing "there is no $python on this machine" "Install Python 3.11, or name another: make PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    missing "$($python --version) is too old" "Tiermesh needs Python 3.11 or newer: make PYTHON=python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    missing "$python has no venv module" "On Debian and Ubuntu: apt-get install python3-venv"

if [ ! -x .venv/bin/python ]; then
    echo "setup: creating .venv with $($python --version)"
    "$python" -m venv .venv
fi
echo "setup: installing into .venv (the first time takes a minute or two)"
pip=(.venv/bin/python -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet --upgrade 'pip>=25.1' ||
    missing "pip cannot reach a package registry" "Check the network, or the proxy and index in pip's configuration"
packages=(-e '.[coordinator,onnx,vision,variants,tui]')
[ "$want" = dev ] && packages+=(-e '.[coordinator,onnx,vision,variants,tui,plot,tiers]' --group dev)
"${pip[@]}" install --progress-bar on --constraint constraints.txt "${packages[@]}" | grep -v '^Requirement already' ||
    [ "${PIPESTATUS[0]}" = 0 ] ||
    missing "the packages could not be installed" "pip's message above says which one"
touch .venv/.run
[ "$want" = dev ] && touch .venv/.dev
exit 0
