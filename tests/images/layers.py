"""Makes layers: directory trees, and the tar archives of them that go into images.

Every layer is made once and kept below target/image-layers/NAME/:

    tree/       the layer's files as overlayfs has them in an upper directory
    blob        its tar archive, compressed
    layer.json  what `oci_layout.Layer` says about it, and the key it was made for

A directory appears there only when it is complete.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
import time

import oci_layout

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = REPOSITORY / "target" / "image-layers"

SUITE = "trixie"
# What the making of a layer wrote gets this time, so that most layers come out the same every time.
BUILD_TIME = 1735689600  # 2025-01-01

COMPRESSORS = {
    "none": ["cat"],
    "gzip": ["gzip", "--no-name", "-6"],
    "zstd": ["zstd", "-3", "--threads=0", "--quiet", "--stdout"],
}


class Recipe:
    """How a layer is made, on which other layers, and how it is packed."""

    def __init__(self, name, make, *, inputs, on=(), compression="gzip"):
        self.name = name
        self.make = make  # called with the empty directory to fill
        self.on = list(on)  # the layers below, lowest first
        self.compression = compression
        packing = [inspect.getsource(part) for part in (settle_times, pack, list_tree)]
        key = [name, inputs, packing, compression, [below.key for below in self.on]]
        self.key = hashlib.sha256(json.dumps(key).encode()).hexdigest()

    @property
    def directory(self):
        return CACHE / self.name

    @property
    def tree(self):
        return self.directory / "tree"

    def built(self):
        """The finished layer; makes it, and those below, if need be."""
        if self._kept_key() != self.key:
            for below in self.on:
                below.built()
            self._build()
        kept = json.loads((self.directory / "layer.json").read_text())
        return oci_layout.Layer(
            blob=self.directory / "blob",
            compression=self.compression,
            digest=kept["digest"],
            diff_id=kept["diff_id"],
            comment=self.name,
        )

    def _kept_key(self):
        try:
            return json.loads((self.directory / "layer.json").read_text())["key"]
        except FileNotFoundError:
            return None

    def _build(self):
        begin = time.time()
        with new_directory(self.directory) as unfinished:
            tree = unfinished / "tree"
            tree.mkdir(mode=0o755)
            self.make(tree)
            settle_times(tree, begin)
            diff_id, digest = pack(tree, unfinished / "blob", self.compression)
            kept = {"key": self.key, "digest": digest, "diff_id": diff_id}
            (unfinished / "layer.json").write_text(json.dumps(kept))
        if (seconds := time.time() - begin) > 1:
            print(f"  layer {self.name}: made in {seconds:.1f} s", flush=True)


@contextlib.contextmanager
def new_directory(final):
    """A temporary directory that becomes `final`, replacing it, if nothing goes wrong."""
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        unfinished.chmod(0o755)
        yield unfinished
        if final.exists():
            shutil.rmtree(final)
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


def remove_unfinished():
    """Removes what builds that were killed left in the cache."""
    for leftover in CACHE.glob(".*"):
        shutil.rmtree(leftover)


def run(*command, **options):
    """Runs a program; its output is shown only if it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False, **options,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed with status {done.returncode}:\n{done.stdout}")
    return done.stdout


def bootstrap(tree):
    """Makes a small Debian root file system."""
    script = (
        'source "$1"; bootstrap_debian "$2" "$3" --variant=minbase'
        " --dpkgopt='path-exclude=/usr/share/doc/*'"
        " --dpkgopt='path-exclude=/usr/share/man/*'"
        " --dpkgopt='path-exclude=/usr/share/locale/*'"
        # What the machine put there is no part of the image.
        """ --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"'"""
    )
    tree.rmdir()
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(BUILD_TIME)}
    library = HERE.parent / "lib" / "debian.sh"
    run("bash", "-euc", script, "bash", library, SUITE, tree, env=environment)


def install(packages, on, then=None):
    """A function that makes the layer that installing `packages` on the layers `on` leaves.

    `then` is called with the root directory while apt can still download there.
    """

    def make(tree):
        lower = ":".join(str(below.tree) for below in reversed(on))
        with tempfile.TemporaryDirectory(prefix=".overlay.", dir=CACHE) as scratch:
            work, root = pathlib.Path(scratch, "work"), pathlib.Path(scratch, "root")
            work.mkdir()
            root.mkdir()
            # Nothing here may turn into a feature of overlayfs that an image can't have.
            options = f"lowerdir={lower},upperdir={tree},workdir={work}"
            options += ",redirect_dir=off,index=off,metacopy=off"
            run("mount", "-t", "overlay", "-o", options, "overlay", root)
            try:
                run("mount", "-t", "proc", "proc", root / "proc")
                run("mount", "--rbind", "/dev", root / "dev")
                shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
                environment = {"PATH": "/usr/sbin:/usr/bin", "DEBIAN_FRONTEND": "noninteractive"}
                apt = functools.partial(run, "chroot", root, "apt-get", env=environment)
                apt("update")
                apt("install", "--yes", "--no-install-recommends", *packages)
                if then is not None:
                    then(root)
                apt("clean")
                shutil.rmtree(root / "var/lib/apt/lists")
                (root / "var/lib/apt/lists").mkdir()
                (root / "etc/resolv.conf").unlink()
            finally:
                run("umount", "--recursive", root)

    return make


def wheels(requirements, python):
    """A function that makes the layer of packages for a version of Python, as their makers build them."""

    def make(tree):
        target = tree / "usr/lib/python3/dist-packages"
        target.mkdir(parents=True)
        run(
            "python3", "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
            "--only-binary=:all:", "--python-version", python, "--target", target, *requirements,
        )  # fmt: skip

    return make


def settle_times(tree, begin):
    """Gives everything that was written since `begin` the time BUILD_TIME."""
    now = time.time()
    for directory, subdirectories, files in os.walk(os.fsencode(tree)):
        for path in (directory, *(os.path.join(directory, n) for n in subdirectories + files)):
            # The kernel's clock for files is a little behind.
            if begin - 1 <= os.lstat(path).st_mtime <= now:
                os.utime(path, (BUILD_TIME, BUILD_TIME), follow_symlinks=False)


def pack(tree, blob, compression):
    """Writes the layer's archive and returns its diffID and the digest of the compressed blob."""
    with tempfile.TemporaryDirectory(prefix=".whiteouts.", dir=CACHE) as scratch:
        names, whiteouts = list_tree(os.fsencode(tree))
        for name in whiteouts:
            path = os.path.join(os.fsencode(scratch), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "xb").close()
            os.utime(path, (BUILD_TIME, BUILD_TIME))
        (names_file, whiteouts_file) = (f"{scratch}/.names", f"{scratch}/.whiteouts")
        for file, listed in ((names_file, names), (whiteouts_file, whiteouts)):
            pathlib.Path(file).write_bytes(b"".join(name + b"\0" for name in listed))

        command = [
            "tar", "--create", "--format=pax", "--numeric-owner", "--no-recursion",
            "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
            "--xattrs", "--xattrs-include=*", "--xattrs-exclude=trusted.overlay.*",
            "--null",
        ]  # fmt: skip
        command += ["-C", tree, f"--files-from={names_file}"]
        if whiteouts:
            command += ["-C", scratch, f"--files-from={whiteouts_file}"]

        # In another locale tar would take names that are no UTF-8 for an error.
        environment = os.environ | {"LC_ALL": "C.UTF-8"}
        diff_id = hashlib.sha256()
        with open(blob, "wb") as output:
            tar = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
            compressor = subprocess.Popen(
                COMPRESSORS[compression], stdin=subprocess.PIPE, stdout=output
            )
            while chunk := tar.stdout.read(1 << 20):
                diff_id.update(chunk)
                compressor.stdin.write(chunk)
            compressor.stdin.close()
            if tar.wait() != 0 or compressor.wait() != 0:
                raise RuntimeError(f"could not pack {tree}; see the message above")
    digest = hashlib.sha256()
    with open(blob, "rb") as written:
        while chunk := written.read(1 << 20):
            digest.update(chunk)
    return "sha256:" + diff_id.hexdigest(), "sha256:" + digest.hexdigest()


def list_tree(top):
    """The names of what is in a layer's tree, sorted, and those of the whiteouts it stands for.

    overlayfs marks a name as removed by a character device 0:0 and a directory as opaque by an
    attribute; in an image both are empty files with special names. Other devices are left out:
    images have none, because container engines make their own /dev.
    """
    names, whiteouts = [], []
    for directory, subdirectories, files in os.walk(top):
        relative = os.path.relpath(directory, top) if directory != top else b""
        if is_opaque(directory):
            whiteouts.append(os.path.join(relative, b".wh..wh..opq"))
        for name in subdirectories + files:
            status = os.lstat(os.path.join(directory, name))
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                whiteouts.append(os.path.join(relative, b".wh." + name))
            elif not stat.S_ISCHR(status.st_mode) and not stat.S_ISBLK(status.st_mode):
                names.append(os.path.join(relative, name))
    return sorted(names), sorted(whiteouts)


def is_opaque(directory):
    try:
        return os.getxattr(directory, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False
