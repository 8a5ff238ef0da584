"""Makes an image with layers that come more than once: repeat_layers.py OCI-LAYOUT-OF-A-BASE OCI-LAYOUT-TO-MAKE"""

import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

base, made = map(Path, sys.argv[1:])


def blob(digest):
    return made / "blobs" / digest.replace(":", "/")


def put(data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    blob(digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def layer(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return {"mediaType": "application/vnd.oci.image.layer.v1.tar", **put(stream.getvalue())}


shutil.copytree(base, made)
index = json.loads((made / "index.json").read_text())
manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
config = json.loads(blob(manifest["config"]["digest"]).read_text())
empty = layer({})
first = layer({"order": b"first", "both": b"1"})
second = layer({"order": b"second", ".wh.both": b""})
for new in [empty, first, empty, second, first, empty]:
    manifest["layers"].append(new)
    config["rootfs"]["diff_ids"].append(new["digest"])
    config.setdefault("history", []).append({"created_by": "repeat_layers"})
manifest["config"].update(put(json.dumps(config).encode()))
index["manifests"][0].update(put(json.dumps(manifest).encode()))
(made / "index.json").write_text(json.dumps(index))
