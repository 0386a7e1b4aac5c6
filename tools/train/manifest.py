"""Writes weights/manifest.json: length and SHA-256 of every file of every model folder under weights/.

    python tools/train/manifest.py [weights]

Run it after a model has been exported into weights/; the engine refuses shipped files that differ.
"""

import hashlib
import json
import pathlib
import sys

LICENCE = "MIT OR Apache-2.0"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "weights")
    models = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            files.append({"path": path.relative_to(root).as_posix(), "bytes": len(data), "sha256": digest})
        models.append({"name": folder.name, "licence": LICENCE, "files": files})
    (root / "manifest.json").write_text(json.dumps({"models": models}, indent=1) + "\n")


if __name__ == "__main__":
    main()
