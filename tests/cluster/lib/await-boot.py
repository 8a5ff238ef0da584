"""Lets a node's first process become systemd, and returns when it has started the node: await-boot.py SOCKET FIFO

SOCKET is where systemd tells that it is done ($NOTIFY_SOCKET; https://systemd.io/CONTAINER_INTERFACE), FIFO where the first
process waits for a line.
"""

import socket
import sys

DEADLINE_SECONDS = 60


def main():
    notices_path, fifo = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(notices_path)
        notices.settimeout(DEADLINE_SECONDS)
        with open(fifo, "w", encoding="ascii") as waiting:
            waiting.write("boot\n")
        try:
            while "READY=1" not in notices.recv(4096).decode().splitlines():
                pass
        except TimeoutError:
            sys.exit(f"systemd has not started the node in {DEADLINE_SECONDS} s")


main()
