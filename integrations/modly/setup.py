"""What Modly runs when the extension is installed: a virtual environment beside it that has V3D.

python setup.py '{"python_exe": "...", "ext_dir": "..."}'
"""

import json
import os
import subprocess
import sys
from pathlib import Path

arguments = json.loads(sys.argv[1])
extension = Path(arguments["ext_dir"]).resolve()
checkout = extension.parents[1]  # integrations/modly of a checkout of V3D
source = os.environ.get("V3D_SOURCE") or (str(checkout) if (checkout / "src/v3d").is_dir() else None)
if source is None:
    sys.exit("Set V3D_SOURCE to a checkout of V3D, or link its integrations/modly into Modly's extensions.")
subprocess.run([arguments["python_exe"], "-m", "venv", str(extension / "venv")], check=True)
python = extension / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
subprocess.run([str(python), "-m", "pip", "install", source], check=True)
