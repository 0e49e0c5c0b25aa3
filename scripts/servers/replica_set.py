#!/usr/bin/env python3
"""Makes mongods on ports of 127.0.0.1 the replica set `sandclock`, and waits until the first has a primary and can be written to.

    replica_set.py PORT [PORT...]

What is a replica set already stays one; then this only waits. Without a MongoDB client: it sends three commands, so it writes them itself.
"""

import socket
import struct
import sys
import time

PATIENCE_SECONDS = 60


def document(fields):
    """A BSON document of strings, integers, documents and lists of documents."""
    body = b""
    for name, value in fields.items():
        key = name.encode() + b"\0"
        if isinstance(value, str):
            text = value.encode() + b"\0"
            body += b"\x02" + key + struct.pack("<i", len(text)) + text
        elif isinstance(value, int):
            body += b"\x10" + key + struct.pack("<i", value)
        elif isinstance(value, list):
            body += b"\x04" + key + document({str(at): item for at, item in enumerate(value)})
        else:
            body += b"\x03" + key + document(value)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def receive(connection, length):
    received = b""
    while len(received) < length:
        part = connection.recv(length - len(received))
        if not part:
            raise ConnectionError("mongod closed the connection")
        received += part
    return received


def command(port, fields):
    """The answer to a command on `admin`, as the bytes that it has."""
    message = struct.pack("<iB", 0, 0) + document({**fields, "$db": "admin"})
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(struct.pack("<iiii", 16 + len(message), 1, 0, 2013) + message)
        (length,) = struct.unpack("<i", receive(connection, 4))
        return receive(connection, length - 4)


def truth(answer, name):
    """Whether a field of the answer is true."""
    return b"\x08" + name.encode() + b"\0\x01" in answer


def main(ports):
    deadline = time.monotonic() + PATIENCE_SECONDS
    members = [{"_id": at, "host": f"127.0.0.1:{port}"} for at, port in enumerate(ports)]
    # A primary that is gone is missed after 2 seconds instead of 10.
    replica_set = {"_id": "sandclock", "members": members, "settings": {"electionTimeoutMillis": 2000}}
    last = "it did not answer"
    while time.monotonic() < deadline:
        try:
            hello = command(ports[0], {"hello": 1})
            if truth(hello, "isWritablePrimary") or (truth(hello, "secondary") and b"\x02primary\0" in hello):
                return
            if truth(hello, "isreplicaset"):
                last = str(command(ports[0], {"replSetInitiate": replica_set}))
        except OSError as error:
            last = str(error)
        time.sleep(0.02)
    sys.exit(f"servers: no primary on port {ports[0]} after {PATIENCE_SECONDS} s; the last answer: {last}")


main([int(port) for port in sys.argv[1:]])
