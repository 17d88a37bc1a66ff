# SPDX-License-Identifier: Apache-2.0
#
# What the adapters' run_tests do, sourced by them from the repository's root. An adapter is built
# into a virtual environment of its own, build/ADAPTER/venv, and tested there. All of them heed
#
#   PYTHON               which Python makes the environment (default python3)
#   GRU_ADAPTER_TYPES    the types of the GPU code; the CPU has all four
#   GRU_ENABLE_CUDA      OFF builds the CPU alone; default AUTO

# make_environment ADAPTER LEAST_PYTHON MOST_PYTHON [PACKAGE REPLACEMENT]: with the adapter's pinned
# requirements, of which that of PACKAGE is replaced if REPLACEMENT is not empty. Sets venv and puts
# it on the path.
make_environment() {
  local adapter=$1 least=$2 most=$3 package=${4:-} replacement=${5:-}
  local python=${PYTHON:-python3}
  "$python" - "$least" "$most" <<'PYTHON' || {
import sys

least, most = (tuple(map(int, version.split("."))) for version in sys.argv[1:])
sys.exit(not least <= sys.version_info[:2] <= most)
PYTHON
    echo "$adapter needs Python $least to $most; $python is $("$python" -V). Set PYTHON." >&2
    exit 2
  }
  local folder=$PWD/build/$adapter
  venv=$folder/venv
  mkdir -p "$folder"
  [[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
  local requirements=$folder/requirements.txt
  cp "examples/$adapter/requirements.txt" "$requirements"
  [[ -n $replacement ]] && sed -i "s|^$package==.*|$replacement|" "$requirements"
  if ! cmp -s "$requirements" "$venv/requirements.txt"; then
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/requirements.txt"
  fi
  export PATH=$venv/bin:$PATH
}

# install_adapter ADAPTER TYPES: TYPES unless GRU_ADAPTER_TYPES says otherwise.
install_adapter() {
  local warnings=OFF
  [[ -n ${CI:-} ]] && warnings=ON
  export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
  "$venv/bin/pip" install --quiet --disable-pip-version-check \
    --no-build-isolation --force-reinstall --no-deps \
    -C "cmake.define.GRU_ADAPTER_TYPES=${GRU_ADAPTER_TYPES:-$2}" \
    -C "cmake.define.GRU_ENABLE_CUDA=${GRU_ENABLE_CUDA:-AUTO}" \
    -C "cmake.define.GRU_WARNINGS_AS_ERRORS=$warnings" \
    "./examples/$1"
}

# test_adapter ADAPTER [PYTEST ARGUMENTS]: the last line says how many passed, failed and were
# skipped. Never returns.
test_adapter() {
  local adapter=$1 status=0
  shift
  local results=build/$adapter/results.xml
  rm -f "$results"
  "$venv/bin/python" -m pytest "examples/$adapter/tests" -p no:cacheprovider \
    --junitxml="$results" -q "$@" || status=$?
  [[ -e $results ]] || exit 1
  "$venv/bin/python" - "$results" <<'PYTHON'
import sys
import xml.etree.ElementTree as tree

suite = tree.parse(sys.argv[1]).getroot().find("testsuite")
total, failed, skipped = (int(suite.get(k)) for k in ("tests", "failures", "skipped"))
failed += int(suite.get("errors"))
print(f"{total - failed - skipped} passed, {failed} failed, {skipped} skipped")
PYTHON
  exit "$status"
}
