"""Pack a network for the package: its large matrices in 4 bits (`v3d.weights.storage`).

python scripts/pack_weights.py FROM NETWORK TO

FROM is a folder of weights, as training exports it; NETWORK is `pixelnerf`, `dit` or `vae`. Its file and its
part of `config.json` are written into the folder TO; other parts of that `config.json` stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from v3d.files import write_json
from v3d.weights.storage import load_weights, save_weights


def pack(source: Path, network: str, target: Path) -> None:
    """Write a network of the folder `source` into the folder `target` in 4 bits, and its sizes."""
    save_weights(load_weights(source / f"{network}.safetensors"), target / f"{network}.safetensors", bits=4)
    path = target / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    sizes = json.loads((source / "config.json").read_text())[network]
    write_json(path, {**config, network: sizes})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("target", type=Path, metavar="TO")
    arguments = parser.parse_args()
    pack(arguments.source, arguments.network, arguments.target)
