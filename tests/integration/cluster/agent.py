"""Talks to the agent of the node this runs on, as whoever runs it."""

import json
import os
import select
import socket
import struct
import sys

SOCKET = "/run/parallax/agent.sock"


def connect(path=SOCKET):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Python's own limit would make the connect fail at once where the queue of connections is full.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 120, 0))
    client.connect(path)
    client.settimeout(120)
    return client


def frame(message, version=1):
    body = json.dumps({"version": version, "message": message}).encode()
    return struct.pack("<I", len(body)) + body


def receive(client):
    """The response, or None if the connection was closed."""
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack("<I", data[:4])[0]:
        try:
            piece = client.recv(65536)
        except ConnectionResetError:
            return None
        if not piece:
            return None
        data += piece
    return json.loads(data[4:])["message"]


def ask(message, path=SOCKET):
    client = connect(path)
    client.sendall(frame(message))
    return receive(client)


def step(job, number=0, restart=0):
    return {"job": job, "step": number, "restart": restart}


def request(job, image="debian", uid=1001, mode="run", number=0):
    return {"lease": {"step": step(job, number), "uid": uid, "gid": uid, "image": image, "image_id": None, "mode": mode}}


def lease(job, path=SOCKET, **more):
    """The connection that is the lease, and the response."""
    client = connect(path)
    client.sendall(frame(request(job, **more)))
    return client, receive(client)


def metric(name, path=SOCKET):
    for line in ask("metrics", path)["metrics"]["text"].splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise KeyError(name)


