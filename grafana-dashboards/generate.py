#!/usr/bin/env python3
#
# Writes the dashboards, one file each, into this folder or the one that is
# named.  `make dashboards` runs it where Grafana's SDK is.
#
#     grafana-dashboards/generate.py [FOLDER]

import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402

import models  # noqa: E402
import overview  # noqa: E402
import users  # noqa: E402


def main():
    here = Path(__file__).resolve().parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here

    for module in (overview, models, users):
        board = module.board()
        text = json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True,
                          ensure_ascii=False)
        (folder / f"{board.uid}.json").write_text(text + "\n")


main()
