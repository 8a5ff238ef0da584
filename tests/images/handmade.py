"""Layers whose files are made one by one, to have all that a layer can have.

Each function fills an empty directory with a layer's files. Removals are written as overlayfs has
them (a character device 0:0, an attribute on a directory); packing translates them.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

YEAR_1970, YEAR_2000, YEAR_2099 = 1, 946684799, 4070908800


def kinds(root):
    """Every kind of file, owner, mode, name and attribute."""
    top = _directory(root / "srv/kinds")

    links = _directory(top / "links")
    _file(links / "one", "one file with three names\n")
    os.link(links / "one", links / "two")
    _directory(links / "elsewhere")
    os.link(links / "one", links / "elsewhere/three")
    os.symlink("one", links / "relative")
    os.symlink("../../../etc/debian_version", links / "upwards")
    os.symlink("/srv/kinds/links/two", links / "absolute")
    os.symlink("/nowhere/to be found", links / "dangling")
    os.symlink("circular", links / "circular")
    os.symlink("x" * 4000, links / "long-target")
    os.lchown(links / "relative", 1234, 4321)

    modes = _directory(top / "modes")
    for mode in (0o0000, 0o0400, 0o0644, 0o0755, 0o0777, 0o2755, 0o4755, 0o6755, 0o7777):
        _file(modes / f"file-{mode:04o}", f"{mode:04o}\n", mode=mode)
    for mode in (0o0700, 0o0755, 0o1777, 0o2775, 0o3770):
        _directory(modes / f"directory-{mode:04o}", mode=mode)
    # Set-id bits on a program that belongs to neither root nor the user.
    _file(modes / "setid-others", "#!/bin/true\n", mode=0o6755, owner=(4242, 4343))

    owners = _directory(top / "owners")
    for uid in (0, 1, 2, 33, 99, 999, 1000, 1001, 1002, 10000, 30000, 60000):
        _file(owners / f"uid-{uid}", f"{uid}\n", owner=(uid, 0))
        _file(owners / f"gid-{uid}", f"{uid}\n", owner=(0, uid))
        directory = _directory(owners / f"directory-{uid}")
        _file(directory / "file", "", owner=(uid, uid))
        os.chown(directory, uid, uid)

    attributes = _directory(top / "attributes")
    _file(attributes / "user", "")
    os.setxattr(attributes / "user", "user.comment", b"a value with spaces and = signs")
    os.setxattr(attributes / "user", "user.bytes", bytes(range(256)))
    os.setxattr(_directory(attributes / "directory"), "user.on.a.directory", b"yes")
    for name, capabilities in (
        ("bind-low-ports", "cap_net_bind_service=+ep"),
        ("several", "cap_net_raw,cap_sys_nice=+eip"),
    ):
        program = attributes / name
        shutil.copyfile("/bin/true", program)
        program.chmod(0o755)
        subprocess.run(["setcap", capabilities, program], check=True)

    names = os.fsencode(_directory(top / "names"))
    for name in (
        b"with space",
        b" leading and trailing ",
        b"new\nline",
        b"tab\tand\\backslash",
        b"-dash",
        b"--option=value",
        b"quote'\"`$HOME",
        b"star*?[a]",
        b"equals=comma,colon:hash#",
        "ümläut-日本語-🦀".encode(),
        b"not-utf8-\xff\xfe\x80",
        b"control-\x01\x7f",
        b"...",
        b"n" * 255,
    ):
        with open(os.path.join(names, name), "wb") as file:
            file.write(name)
    deep = top / "names"
    for _ in range(12):
        deep = _directory(deep / ("deep-" * 8))
    _file(deep / "at-the-bottom", "its path is longer than a tar header's fields\n")

    times = _directory(top / "times")
    for name, when in (
        ("1970", YEAR_1970 * 10**9),
        ("2000", YEAR_2000 * 10**9),
        ("2099", YEAR_2099 * 10**9),
        ("nanoseconds", YEAR_2000 * 10**9 + 123456789),
    ):
        _file(times / name, "")
        os.utime(times / name, ns=(when, when))

    _file(top / "empty", "")
    _directory(top / "empty-directory")
    os.mkfifo(top / "fifo")
    os.chown(top / "fifo", 5, 6)
    (top / "fifo").chmod(0o620)
    with open(top / "sparse", "wb") as sparse:
        sparse.write(b"begin")
        sparse.seek(8 << 20)
        sparse.write(b"end")
        sparse.truncate(16 << 20)
    _file(top / "one-byte", "1")
    _file(top / "two-blocks", "0123456789abcdef" * (2 * 131072 // 16))

    # These are for the layer `removals`.
    going = _directory(root / "srv/going")
    _file(going / "file", "removed by the next layer\n")
    _file(going / "stays", "still there\n")
    _file(_directory(going / "directory/within") / "file", "removed with its directory\n")
    _file(going / "file-to-directory", "becomes a directory\n")
    _file(_directory(going / "directory-to-file") / "file", "its directory becomes a file\n")
    _file(going / "file-to-symlink", "becomes a symbolic link\n")
    _file(going / "new-contents", "old\n", mode=0o600)
    _file(going / "comes-back", "old\n")
    opaque = _directory(root / "srv/opaque")
    _file(opaque / "hidden", "hidden by the next layer\n")
    _file(_directory(opaque / "hidden-directory") / "file", "so is this\n")
    _file(opaque / "replaced", "old\n")
    _file(_directory(opaque / "kept-name") / "hidden", "hidden, though the directory's name is not\n")


def many(root):
    """As many files as a large Python installation has."""
    for package in range(200):
        for part in range(10):
            directory = _directory(root / f"srv/many/package-{package:03}/part-{part}")
            for module in range(10):
                _file(directory / f"module_{module}.py", f"{package} {part} {module}\n" * (20 * module))


def removals(root):
    """Removes, hides and replaces what layers below have, Debian's own files included."""
    going = _directory(root / "srv/going")
    for name in ("file", "directory", "comes-back"):
        _whiteout(going / name)
    _file(_directory(going / "file-to-directory") / "file", "was a file\n")
    _file(going / "directory-to-file", "was a directory\n")
    os.symlink("stays", going / "file-to-symlink")
    _file(going / "new-contents", "new\n", mode=0o640, owner=(7, 8))

    opaque = _opaque_directory(root / "srv/opaque")
    _file(opaque / "replaced", "new\n")
    _file(opaque / "added", "new\n")
    _file(_directory(opaque / "kept-name") / "added", "new\n")

    # A name that is gone and one that is there in one directory, and a whole tree of a package.
    _directory(root / "usr/share")
    _whiteout(root / "usr/share/base-files")
    _directory(root / "usr/share/pixmaps")
    _whiteout(root / "usr/share/pixmaps/debian-logo.png")


def tool(root):
    """A program found by PATH, a user to run as, and a file that came back after its removal."""
    _file(
        _directory(root / "opt/tool/bin") / "tool",
        '#!/bin/sh\necho "tool: $(id -un) in $(pwd), greeting: $GREETING"\n',
        mode=0o755,
    )
    _file(_directory(root / "srv/going") / "comes-back", "new\n")
    _directory(root / "home")
    home = _directory(root / "home/app", mode=0o750, owner=(1500, 1500))
    _file(home / "data", "the application's\n", owner=(1500, 1500))


def add_user(root, passwd, group):
    """Adds the user "app" to the account files of the layers below, given as text."""
    etc = _directory(root / "etc")
    _file(etc / "passwd", passwd + "app:x:1500:1500:An application:/home/app:/bin/sh\n")
    _file(etc / "group", group + "app:x:1500:\n")


def static(root):
    """One static binary, and nothing else."""
    binary = _directory(root / "bin") / "hello"
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", binary, HERE / "hello.c"], check=True)
    binary.chmod(0o755)


def mpi_check(root, headers, include, link):
    """The program that tests an MPI library of the image, made with the package of its headers.

    The compiler is this machine's: only the library and the headers must fit each other.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # apt downloads into the current directory, as a user of its own if it can.
        download = f"cd /tmp && apt-get download {headers}"
        subprocess.run(["chroot", root, "sh", "-c", download], check=True, stdout=subprocess.DEVNULL)
        [package] = (root / "tmp").glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, scratch], check=True)
        package.unlink()
        [header] = pathlib.Path(scratch).glob(f"usr/**/{include}/mpi.h")
        [library] = root.glob(f"usr/lib/*/{link}")
        command = ["gcc", "-O2", "-s", "-o", root / "usr/bin/mpi-check", HERE / "mpi_check.c"]
        # What the library needs of the image's C library, this machine's may lack.
        command += ["-I", header.parent, library, "-Wl,--unresolved-symbols=ignore-in-shared-libs"]
        subprocess.run(command, check=True)


def tiny(root, base):
    """A shell and a few programs of the Debian `base`: little to walk through, which Podman does for each commit."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "etc", "usr/share/doc/tiny", "dev", "proc", "sys", "run", "var/tmp"):
        _directory(root / name)
    _directory(root / "tmp", mode=0o1777)
    for name in ("bin", "lib", "lib64"):
        os.symlink(f"usr/{name}", root / name)
    programs = [f"/usr/bin/{name}" for name in ("cat", "dash", "id", "ls", "mkdir", "rm", "sleep", "stat", "touch", "wc")]
    linked = subprocess.run(["chroot", base, "ldd", *programs], stdout=subprocess.PIPE, text=True, check=True).stdout
    libraries = {word for line in linked.splitlines() for word in line.split() if word.startswith("/") and word[-1] != ":"}
    for path in (*programs, *sorted(libraries)):
        target = root / path.lstrip("/")
        _directory(target.parent.resolve())
        shutil.copyfile(base / path.lstrip("/"), target)
        target.chmod(0o755)
    os.symlink("dash", root / "usr/bin/sh")
    for name in ("passwd", "group", "shadow", "debian_version"):
        shutil.copyfile(base / "etc" / name, root / "etc" / name)
    shadow = root / "etc/shadow"
    os.chown(shadow, 0, 42)
    shadow.chmod(0o640)
    _file(root / "usr/share/doc/tiny/README", "A few programs of Debian.\n")


def small_change(root, number):
    """The `number`th (from 1) of many small layers: adds, changes and removes."""
    top = _directory(root / "srv/layers")
    _file(top / f"added-{number:02}", f"by layer {number}\n")
    _file(top / "changed", f"last by layer {number}\n")
    directory = top / f"directory-{number // 5}"
    if number % 5 == 4 and number > 5:
        _opaque_directory(directory)
    else:
        _directory(directory)
    _file(directory / f"file-{number:02}", f"by layer {number}\n", owner=(number, 100 + number))
    if number % 3 == 0:
        _whiteout(top / f"added-{number - 1:02}")
    if number % 10 == 0 and number > 10:
        _whiteout(top / f"directory-{number // 5 - 2}")


def _directory(path, mode=0o755, owner=(0, 0)):
    """Makes a directory; those above it that are missing are root's and 0755."""
    for above in reversed(path.parents):
        if not above.exists():
            above.mkdir()
            above.chmod(0o755)
    path.mkdir(exist_ok=True)
    os.chown(path, *owner)
    path.chmod(mode)
    return path


def _opaque_directory(path):
    os.setxattr(_directory(path), "trusted.overlay.opaque", b"y")
    return path


def _whiteout(path):
    os.mknod(path, 0o20000, os.makedev(0, 0))


def _file(path, contents, mode=0o644, owner=(0, 0)):
    path.write_text(contents)
    os.chown(path, *owner)
    path.chmod(mode)
