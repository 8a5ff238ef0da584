"""Makes images with layers that no ordinary builder makes: odd_layers.py OCI-LAYOUT-OF-A-BASE OCI-LAYOUT-OF-STATIC DIR

Each is DIR/CASE: the layers of the base, and then those of the case.
"""

import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

base, static, directory = map(Path, sys.argv[1:])


def entry(name, text=None, link=None, hard=None, mode=0o644, uid=0, gid=0):
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = mode, uid, gid
    data = text if isinstance(text, bytes) else (text or "").encode()
    if link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, link
    elif hard is not None:
        info.type, info.linkname = tarfile.LNKTYPE, hard
    elif text is None:
        info.type = tarfile.DIRTYPE
    info.size = len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def stream(*entries):
    return b"".join(entries) + bytes(1024)


implied = stream(entry("tmp/link", link="/etc/motd"), entry("root/file", "x"), entry("var/mail/box", "x"), entry("new/dir/file", "x"))
tmp_closed = stream(entry("tmp", mode=0o711, uid=7, gid=8))
odd_id = 1516583083

CASES = {
    "implied": [implied],
    # The same layer over another /tmp.
    "implied-over-another": [tmp_closed, implied],
    "names": [
        stream(
            entry("/app/absolute", "1"),
            entry("../../up", "2"),
            entry("a/../b", "3"),
            entry("real/dir", mode=0o755),
            entry("way", link="real/dir"),
            entry("way/file", "4"),
            entry("/way/linked", hard="/way/file"),
            entry("out", link="../../../real"),
            entry("out/inside", "5"),
        )
    ],
    "root-opaque": [stream(entry(".wh..wh..opq", ""), entry("etc/kept", "kept")), "static"],
    "owners": [
        stream(entry("opt/odd", "odd", uid=odd_id, gid=odd_id), entry("opt/usual", "usual", uid=33, gid=33)),
    ],
    "links": [
        stream(
            *[entry(f"links/{n}", f"content {n}\n" * 1000) for n in range(200)],
            *[part for n in range(200) for part in (entry(f"links/l{n}", hard=f"links/{n}"), entry(f"links/f{n}", f"after {n}\n"))],
        )
    ],
    # Names: the user's id is somebody else's, /etc/passwd is a link, and there is no /etc/group.
    "accounts": [
        stream(
            entry("etc/passwd", link="../opt/passwd"),
            entry("opt/passwd", "app:x:1001:7::/:/bin/sh\nlp:x:7:7::/:/bin/sh\n"),
            entry("etc/.wh.group", ""),
        )
    ],
    # Links in the place of files and directories that containers get, to a directory of the node's.
    "led-astray": [
        stream(
            entry("etc/hosts", link="/srv/victim/hosts"),
            entry("etc/group", link="../../../../srv/victim/group"),
            entry("run", link="/srv/victim"),
            entry("tmp", link="../srv/victim/tmp"),
        )
    ],
    "volume": [stream(entry("data", mode=0o777), entry("data/large", "x" * (64 << 20)))],
}
# A program for another processor, as far as the kernel looks at it.
ELF_OF_ARM64 = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\0\xb7\0\x01".ljust(48, b"\0")
CASES["foreign"] = [stream(entry("usr/bin/app", ELF_OF_ARM64, mode=0o755))]
ARCHITECTURES = {"foreign": "arm64"}
VOLUMES = {"volume": {"/data": {}}}


def make(case, layers):
    made = directory / case
    shutil.copytree(base, made)
    shutil.copytree(static / "blobs", made / "blobs", dirs_exist_ok=True)
    blob = lambda digest: made / "blobs" / digest.replace(":", "/")
    read = lambda digest: json.loads(blob(digest).read_text())

    def put(data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blob(digest).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def parts(layout):
        index = json.loads((layout / "index.json").read_text())
        manifest = read(index["manifests"][0]["digest"])
        return index, manifest, read(manifest["config"]["digest"])

    index, manifest, config = parts(made)
    if case in VOLUMES:
        config["config"]["Volumes"] = VOLUMES[case]
    config["architecture"] = ARCHITECTURES.get(case, config["architecture"])
    for layer in layers:
        if layer == "static":
            _, other, other_config = parts(static)
            manifest["layers"] += other["layers"]
            config["rootfs"]["diff_ids"] += other_config["rootfs"]["diff_ids"]
            config.setdefault("history", []).extend({"created_by": "static"} for _ in other["layers"])
        else:
            new = {"mediaType": "application/vnd.oci.image.layer.v1.tar", **put(layer)}
            manifest["layers"].append(new)
            config["rootfs"]["diff_ids"].append(new["digest"])
            config.setdefault("history", []).append({"created_by": "odd_layers"})
    manifest["config"].update(put(json.dumps(config).encode()))
    index["manifests"][0].update(put(json.dumps(manifest).encode()))
    (made / "index.json").write_text(json.dumps(index))


for case, layers in CASES.items():
    make(case, layers)
