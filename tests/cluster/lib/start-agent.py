"""Starts the agent on the node this runs on and returns when it accepts connections."""

import os
import socket
import subprocess
import sys
import time

AGENT = ["/usr/sbin/parallax-agent", "--config", "/etc/parallax/parallax.toml"]
SOCKET = "/run/parallax/agent.sock"
PID_FILE = "/run/parallax-agent.pid"
DEADLINE_SECONDS = 30


def accepts_connections():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(SOCKET)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def main():
    node = socket.gethostname()
    if accepts_connections():
        sys.exit(f"the agent on {node} is running already")
    log_name = f"/var/log/cluster/{node}-agent.log"
    with open(log_name, "ab") as log:
        agent = subprocess.Popen(
            AGENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
        )
    with open(PID_FILE, "w", encoding="ascii") as file:
        file.write(f"{agent.pid}\n")
    deadline = time.monotonic() + DEADLINE_SECONDS
    # A socket tells nobody that it accepts connections, so it is tried again and again; the wait in
    # between ends early if the agent does.
    while not accepts_connections():
        try:
            status = agent.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            agent.terminate()
            sys.exit(f"the agent on {node} did not listen on {SOCKET} in {DEADLINE_SECONDS} s")
        with open(log_name, encoding="utf-8", errors="replace") as log:
            sys.stderr.writelines(log.readlines()[-20:])
        sys.exit(f"the agent on {node} ended at once with status {status}")


main()
