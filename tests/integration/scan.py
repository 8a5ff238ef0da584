"""Describes every file below a directory, a JSON line each, so that two trees can be compared.

Runs on the nodes too, with the little of Python's library that they have.
"""

import base64
import hashlib
import json
import os
import stat
import sys

root = os.fsencode(sys.argv[1])
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def extended_attributes(path):
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # A layer of SquashFS with no attributes at all has none to list.
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in sorted(names)}


def contents(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe(path):
    status = os.lstat(path)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    entry = {
        "path": base64.b64encode(os.path.relpath(path, root)).decode(),
        "kind": kind,
        "mode": oct(stat.S_IMODE(status.st_mode)),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "xattrs": extended_attributes(path),
    }
    if kind == "file":
        entry.update(size=status.st_size, links=status.st_nlink, mtime=int(status.st_mtime), sha256=contents(path))
    elif kind == "link":
        entry["target"] = base64.b64encode(os.readlink(path)).decode()
    elif kind.endswith("device"):
        entry["device"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    return entry


paths = [root]
while paths:
    path = paths.pop()
    entry = describe(path)
    print(json.dumps(entry, sort_keys=True))
    if entry["kind"] == "directory":
        paths.extend(os.path.join(path, name) for name in sorted(os.listdir(path)))
