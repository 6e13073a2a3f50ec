#!/bin/sh
# The quick suite with the newest Python at hand and the newest releases of what the
# package needs: tests/newest.sh [FOLDER FOR THE ENVIRONMENT] [ARGUMENTS OF PYTEST ...].
# A folder that holds an environment already is used as it is.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-.newest}
[ $# -eq 0 ] || shift
if [ ! -x "$folder/bin/python" ]; then
    newest=
    for version in 3.13 3.12 3.11; do
        if "python$version" -c '' 2>/dev/null; then
            newest=python$version
            break
        fi
    done
    if [ -z "$newest" ]; then
        echo "error: no Python 3.11 to 3.13 at hand" >&2
        exit 2
    fi
    "$newest" -m venv "$folder"
    "$folder/bin/pip" install -q --upgrade --upgrade-strategy eager -e '.[test]'
fi
"$folder/bin/python" -c '
import importlib.metadata as m, sys
names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
print("Python", sys.version.split()[0], *(f"{n} {m.version(n)}" for n in names))'
exec "$folder/bin/python" -m pytest -n "${CORES:-2}" --dist loadfile -q "$@"
