"""Makes sure that a node's mount namespace is older than every one that will be made: oldest-namespace.py PID

On a machine of its own it is the oldest by nature, and Slurm relies on that: it keeps the namespace of a job
(job_container/tmpfs) by a mount of its file, which the kernel allows only for a namespace that is younger than the one it
is mounted in. Since Linux 6.18 the age is a number of which every CPU takes 4096 at a time, so a namespace that is made on
another CPU than the node's may have the lower number. Here every CPU uses up what is lower.
"""

import ctypes
import fcntl
import os
import struct
import sys

# linux/nsfs.h: the number of a mount namespace (Linux 6.11). Older kernels count in order and need nothing.
NS_GET_MNTNS_ID = 0x8008B705
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
# Namespaces of every kind share the numbers; these are cheap. A look at the number every so many.
AT_ONCE = 64

libc = ctypes.CDLL(None, use_errno=True)


def unshare(kind):
    if libc.unshare(kind) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def age(pid):
    with open(f"/proc/{pid}/ns/mnt", "rb") as namespace:
        return struct.unpack("Q", fcntl.ioctl(namespace, NS_GET_MNTNS_ID, bytes(8)))[0]


def main():
    try:
        node = age(int(sys.argv[1]))
    except OSError:
        return
    for cpu in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {cpu})
        while True:
            unshare(CLONE_NEWNS)
            if age("self") > node:
                break
            for _ in range(AT_ONCE):
                unshare(CLONE_NEWUTS)


main()
