"""Makes OCI layouts that no builder makes.

layouts.py platforms OCI-LAYOUT DIR    DIR/oci and DIR/docker: an index of the image and of the same for linux/arm64/v8, in which
                                       ARCH is another
layouts.py unrunnable OCI-LAYOUT DIR   DIR/CASE: the image with a configuration by which no program, or not every one, can be started;
                                       prints the cases
layouts.py bad DIR                     DIR/CASE: an image with a layer that must not be let in; prints the cases
"""

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

OCI = {
    "index": "application/vnd.oci.image.index.v1+json",
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "layer": "application/vnd.oci.image.layer.v1.tar",
}
DOCKER = {
    "index": "application/vnd.docker.distribution.manifest.list.v2+json",
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "layer": "application/vnd.docker.image.rootfs.diff.tar",
}


class Layout:
    """An OCI layout under construction."""

    def __init__(self, directory):
        self.blobs = Path(directory) / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (self.blobs.parents[1] / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def put(self, data, kind):
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}

    def finish(self, top):
        top["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        index = {"schemaVersion": 2, "manifests": [top]}
        (self.blobs.parents[1] / "index.json").write_text(json.dumps(index))


def platforms(source, directory):
    blobs = Path(source) / "blobs" / "sha256"
    read = lambda digest: (blobs / digest.removeprefix("sha256:")).read_bytes()
    top = json.loads((Path(source) / "index.json").read_text())["manifests"][0]
    manifest = json.loads(read(top["digest"]))
    for name, kinds in {"oci": OCI, "docker": DOCKER}.items():
        layout = Layout(Path(directory) / name)
        compressed = "+gzip" if name == "oci" else ".gzip"
        entries = []
        for platform in [{"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64", "variant": "v8"}]:
            config = json.loads(read(manifest["config"]["digest"])) | platform
            config["config"]["Env"] = ["ARCH=" + platform["architecture"]]
            layers = [
                layout.put(read(layer["digest"]), kinds["layer"] + (compressed if "gzip" in layer["mediaType"] else ""))
                for layer in manifest["layers"]
            ]
            one = {
                "schemaVersion": 2,
                "mediaType": kinds["manifest"],
                "config": layout.put(config, kinds["config"]),
                "layers": layers,
            }
            entries.append(layout.put(one, kinds["manifest"]) | {"platform": platform})
        index = {"schemaVersion": 2, "mediaType": kinds["index"], "manifests": entries}
        layout.finish(layout.put(index, kinds["index"]))


# Members of a configuration, as JSON, by which no program, or not every one, can be started.
UNRUNNABLE = {
    "entrypoint": '"config": {"Entrypoint": "/hello"}',
    "twice": '"config": {"Env": ["A=1"]}, "config": {"Env": ["A=2"]}',
    "variable": '"config": {"Env": ["LONG=%s"]}' % ("x" * (128 << 10)),
    "environment": '"config": {"Env": [%s]}' % ", ".join('"V%d=%s"' % (n, "x" * 100_000) for n in range(30)),
    "directory": '"config": {"WorkingDir": "work"}',
    "machine": '"config": {}, "architecture": "s390x"',
}


def unrunnable(source, directory):
    blobs = Path(source) / "blobs" / "sha256"
    read = lambda digest: (blobs / digest.removeprefix("sha256:")).read_bytes()
    top = json.loads((Path(source) / "index.json").read_text())["manifests"][0]
    manifest = json.loads(read(top["digest"]))
    diff_ids = json.loads(read(manifest["config"]["digest"]))["rootfs"]["diff_ids"]
    for name, members in UNRUNNABLE.items():
        layout = Layout(Path(directory) / name)
        platform = '"os": "linux"' if name == "machine" else '"os": "linux", "architecture": "amd64"'
        config = '{%s, %s, "rootfs": {"type": "layers", "diff_ids": %s}}' % (platform, members, json.dumps(diff_ids))
        one = {
            "schemaVersion": 2,
            "mediaType": OCI["manifest"],
            "config": layout.put(config.encode(), OCI["config"]),
            "layers": [layout.put(read(layer["digest"]), layer["mediaType"]) for layer in manifest["layers"]],
        }
        layout.finish(layout.put(one, OCI["manifest"]))
        print(name)


def entry(name, kind=tarfile.REGTYPE, link="", data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def claim(kind, size):
    """A header that claims `size` bytes of data and has none."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def hole(size):
    """A sparse file of `size` bytes of which one is stored."""
    stream = io.BytesIO()
    records = {"GNU.sparse.size": str(size), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1"}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("hole")
        info.size, info.pax_headers = 1, records
        tar.addfile(info, io.BytesIO(b"x"))
    return stream.getvalue()[: 3 * 512 + 512]


def zstd(data):
    return subprocess.run(["zstd", "--stdout", "--quiet"], input=data, stdout=subprocess.PIPE, check=True).stdout


END = bytes(1024)
GOOD = entry("good", data=b"x" * 100_000) + END

# name: the layer's uncompressed stream, and how it is packed
BAD = {
    "hard-link-outside": (entry("shadow", tarfile.LNKTYPE, "../../etc/shadow") + END, bytes),
    "hard-link-to-nothing": (entry("shadow", tarfile.LNKTYPE, "/etc/shadow") + END, bytes),
    "long-name": (claim(b"L", 1 << 32) + END, bytes),
    "huge-file": (claim(b"0", 1 << 60) + END, bytes),
    "huge-hole": (hole(1 << 45) + END, bytes),
    "bomb": (entry("zeros", data=bytes(300 << 20)) + END, lambda data: gzip.compress(data, 1)),
    "many-entries": (b"".join(entry(f"f{n}") for n in range(2000)) + END, bytes),
    "deep": (entry("x", tarfile.DIRTYPE) + b"".join(entry("/".join(f"{n}d" * 4)) for n in range(2000)) + END, bytes),
    "truncated": (GOOD[:50_000], bytes),
    "truncated-gzip": (GOOD, lambda data: gzip.compress(data)[:-20]),
    "truncated-zstd": (GOOD, lambda data: zstd(data)[:-6]),
    "damaged-gzip": (GOOD, lambda data: gzip.compress(data)[:-8] + bytes(8)),
    "garbage": (bytes(range(256)) * 100, bytes),
    "device-number": (entry("dev", tarfile.CHRTYPE, devmajor=0o7777777, devminor=1) + END, bytes),
}


def bad(directory):
    for name, (stream, pack) in BAD.items():
        layout = Layout(Path(directory) / name)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(stream).hexdigest()]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI["manifest"],
            "config": layout.put(config, OCI["config"]),
            "layers": [layout.put(pack(stream), OCI["layer"])],
        }
        layout.finish(layout.put(manifest, OCI["manifest"]))
        print(name)


{"platforms": platforms, "unrunnable": unrunnable, "bad": bad}[sys.argv[1]](*sys.argv[2:])
