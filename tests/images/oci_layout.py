"""Writes OCI image layouts: https://github.com/opencontainers/image-spec/blob/main/image-layout.md"""

import dataclasses
import hashlib
import json
import os
import pathlib

LAYER_TYPES = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"

# Fixed, so that the same layers and settings make the same image.
CREATED = "2025-01-01T00:00:00Z"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer as it goes into an image."""

    blob: pathlib.Path
    compression: str  # a key of LAYER_TYPES
    digest: str  # of the blob, "sha256:…"
    diff_id: str  # of the uncompressed tar, "sha256:…"
    comment: str


def write(directory, layers, settings, architecture, tag="latest"):
    """Writes an image made of `layers` to the empty `directory`.

    `settings` is the "config" object of the image configuration: Env, User, Entrypoint and so on.
    Blobs of layers are hard-linked, so they must be on the same file system and never change.
    """
    directory = pathlib.Path(directory)
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    descriptors = []
    for layer in layers:
        target = blobs / layer.digest.removeprefix("sha256:")
        if not target.exists():
            os.link(layer.blob, target)
        size = target.stat().st_size
        descriptors.append(_descriptor(LAYER_TYPES[layer.compression], layer.digest, size))

    config = {
        "created": CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": CREATED, "created_by": layer.comment} for layer in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _add_json(blobs, CONFIG_TYPE, config),
        "layers": descriptors,
    }
    manifest_descriptor = _add_json(blobs, MANIFEST_TYPE, manifest)
    manifest_descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest_descriptor]}
    (directory / "index.json").write_bytes(_to_json(index))
    (directory / "oci-layout").write_bytes(_to_json({"imageLayoutVersion": "1.0.0"}))


def _add_json(blobs, media_type, value):
    content = _to_json(value)
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return _descriptor(media_type, "sha256:" + digest, len(content))


def _descriptor(media_type, digest, size):
    return {"mediaType": media_type, "digest": digest, "size": size}


def _to_json(value):
    return json.dumps(value, indent=1, sort_keys=True).encode()
