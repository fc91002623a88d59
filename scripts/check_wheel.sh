#!/usr/bin/env bash
# Builds the wheel, checks its size, and runs what users run from a copy of it, installed outside the checkout.
#
#     scripts/check_wheel.sh [PYTHON]
#
# PYTHON is an environment with V3D's dependencies (default .venv/bin/python): they are borrowed from it, V3D is not.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
python=$(realpath -s "${1:-.venv/bin/python}")
limit=$((70 * 1000 * 1000))

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== build"
"$python" -m pip wheel -q --no-deps --wheel-dir "$work/dist" .
wheel=$(ls "$work"/dist/*.whl)
bytes=$(wc -c <"$wheel")
echo "$(basename "$wheel"): $((bytes / 1000000)) MB"
if ((bytes > limit)); then
  echo "The wheel is larger than $((limit / 1000000)) MB." >&2
  exit 1
fi

echo "== install"
"$python" -m venv --without-pip "$work/venv"
site=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -m pip --python "$work/venv/bin/python" install -q --no-deps "$wheel"
# A plain path in a .pth file borrows the dependencies; the .pth files in there, of an editable V3D too, are not read.
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/borrowed.pth"

echo "== run, outside the checkout"
cp "$checkout/examples/bob.png" "$work"
cd "$work"
unset PYTHONPATH
PATH="$work/venv/bin:$PATH"
where=$(python -c 'import v3d; print(v3d.__file__)')
case $where in
"$site"/*) echo "$where" ;;
*)
  echo "Not the wheel's copy was imported, but $where" >&2
  exit 1
  ;;
esac
test -f "$site/v3d/py.typed"
v3d --version
v3d doctor
v3d generate bob.png --quality draft --until splats -o out
test -s out/bob/splats.ply
v3d convert-splats out/bob/splats.ply out/bob/splats.spz
v3d view out/bob --no-open
test -s out/bob/viewer.html
echo "== the wheel works"
