"""Denies a device to the processes of a control group of version 2, as Slurm's cgroup/v2 with ConstrainDevices does.

device-filter.py DIRECTORY MAJOR MINOR: attaches a program to the group in DIRECTORY that permits all devices but one. It goes with
the group.
"""

import ctypes
import os
import platform
import struct
import sys

SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
# Numbers of <linux/bpf.h>.
PROG_LOAD, PROG_ATTACH = 5, 8
PROG_TYPE_CGROUP_DEVICE, CGROUP_DEVICE = 15, 6
LOAD_WORD, MOVE, JUMP_UNLESS_EQUAL, EXIT = 0x61, 0xB7, 0x55, 0x95

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(SYS_BPF, command, buffer, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf: {os.strerror(code)}")
    return result


def instruction(code, target, source, offset, value):
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def main(directory, major, minor):
    program = b"".join(
        [
            # struct bpf_cgroup_dev_ctx: access_type, major, minor.
            instruction(LOAD_WORD, 2, 1, 4, 0),
            instruction(LOAD_WORD, 3, 1, 8, 0),
            instruction(MOVE, 0, 0, 0, 1),
            instruction(JUMP_UNLESS_EQUAL, 2, 0, 2, major),
            instruction(JUMP_UNLESS_EQUAL, 3, 0, 1, minor),
            instruction(MOVE, 0, 0, 0, 0),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    )
    code, license_ = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(b"GPL")
    loaded = bpf(
        PROG_LOAD,
        struct.pack(
            "<IIQQIIQII",
            PROG_TYPE_CGROUP_DEVICE,
            len(program) // 8,
            ctypes.addressof(code),
            ctypes.addressof(license_),
            0,
            0,
            0,
            0,
            0,
        ),
    )
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    bpf(PROG_ATTACH, struct.pack("<IIII", group, loaded, CGROUP_DEVICE, 0))


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
