#!/usr/bin/env python3
"""Checks the golden vectors of the wire with a decoder of its own.

Written from the wire document (the header of src/wire/mod.rs), not from the Rust code, so that both can be wrong only in
different ways. Needs nothing but Python 3. Usage: check.py wire.json; ends with 0 only if every vector holds, and says
how many there were and which do not.
"""

import json
import struct
import sys


class Refused(Exception):
    """The bytes break the protocol; the argument says how, in the words of the vectors."""


NAMES = {1: "HELLO", 2: "GOAWAY", 3: "REQUEST", 4: "HEAD", 5: "MESSAGE", 6: "DATA", 7: "END", 8: "ERROR", 9: "TELL"}
# Type: fewest and most bytes of its payload.
LENGTHS = {
    1: (12, 65536),
    2: (4, 4),
    3: (8, 65536),
    4: (0, 65536),
    5: (0, 65536),
    6: (1, 1048576),
    7: (0, 0),
    8: (4, 4 + 1024),
    9: (8, 65536),
}
WITH_KIND = {3, 5, 9}
SINCE_2 = {9}
WINDOW = 64


def text(data, why):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(why) from None


def hello(payload):
    low, high, role_count, name_len, capabilities = struct.unpack(">BBBBQ", payload[:12])
    rest = payload[12:]
    if low > high or not 1 <= name_len <= 64 or role_count > 128 or len(rest) < name_len:
        raise Refused("hello")
    name, rest = text(rest[:name_len], "hello"), rest[name_len:]
    roles = []
    for _ in range(role_count):
        if not rest or len(rest) < 1 + rest[0]:
            raise Refused("hello")
        roles.append(text(rest[1 : 1 + rest[0]], "hello"))
        rest = rest[1 + rest[0] :]
    return {"version_min": low, "version_max": high, "capabilities": capabilities, "node": name, "roles": roles}


def opening(version, payload):
    millis, flags = struct.unpack(">II", payload[:8])
    return {
        "time_left_ms": millis,
        "urgency": flags & 7 if version >= 2 else 3,
        "replay_safe": version >= 2 and flags & 8 != 0,
        "control": payload[8:].hex(),
    }


def frame(version, data):
    """The first frame of `data`, and what follows it."""
    if len(data) < 8:
        raise Refused("truncated")
    found, of, kind, length = struct.unpack(">BBHI", data[:8])
    if of not in NAMES or (of in SINCE_2 and version < 2):
        raise Refused("type")
    if found != (1 if of == 1 else version):
        raise Refused("version")
    low, high = LENGTHS[of]
    if not low <= length <= high:
        raise Refused("length")
    if kind != 0 and of not in WITH_KIND:
        raise Refused("kind")
    payload, rest = data[8 : 8 + length], data[8 + length :]
    if len(payload) < length:
        raise Refused("truncated")
    fields = {"type": NAMES[of]}
    if of in WITH_KIND:
        fields["kind"] = kind
    if of == 1:
        fields.update(hello(payload))
    elif of == 2:
        fields["grace_ms"] = struct.unpack(">I", payload)[0]
    elif of in (3, 9):
        fields.update(opening(version, payload))
    elif of in (4, 5, 6):
        fields["control"] = payload.hex()
    elif of == 8:
        fields["code"] = struct.unpack(">I", payload[:4])[0]
        fields["text"] = text(payload[4:], "text")
    return fields, rest


def message(version, data):
    """A whole message: frames up to one that ends it, and nothing after."""
    while True:
        fields, data = frame(version, data)
        if fields["type"] in ("END", "ERROR"):
            if data:
                raise Refused("after end")
            return


def datagram(version, data):
    if len(data) < 12:
        raise Refused("short")
    found, _flags, kind, sequence = struct.unpack(">BBHQ", data[:12])
    if found != version:
        raise Refused("version")
    return {"kind": kind, "sequence": sequence, "payload": data[12:].hex()}


class Window:
    """Remembers every number, and forgets by rule alone."""

    def __init__(self):
        self.seen = set()

    def judge(self, number):
        highest = max(self.seen, default=0)
        if number == 0:
            return "zero"
        if number <= highest - WINDOW:
            return "too old"
        if number in self.seen:
            return "replayed"
        self.seen.add(number)
        return "new"


def differences(vectors):
    """Yields a line for each vector: empty if it holds, else what is wrong."""
    notes = {"name", "version", "bytes", "decode_only"}

    def same(vector, read):
        want = {key: value for key, value in vector.items() if key not in notes}
        try:
            got = read(vector["version"], bytes.fromhex(vector["bytes"]))
        except Refused as refused:
            return f"{vector['name']}: refused: {refused}"
        return "" if got == want else f"{vector['name']}: {got}, not {want}"

    def refused(vector, read):
        try:
            read(vector["version"], bytes.fromhex(vector["bytes"]))
        except Refused as why:
            return "" if str(why) == vector["why"] else f"{vector['name']}: {why}, not {vector['why']}"
        return f"{vector['name']}: not refused"

    def only(version, data):
        fields, rest = frame(version, data)
        if rest:
            raise Refused(f"{len(rest)} bytes follow")
        return fields

    for vector in vectors["frames"]:
        yield same(vector, only)
    for vector in vectors["refused"]:
        yield refused(vector, message)
    for vector in vectors["datagrams"]:
        yield same(vector, datagram)
    for vector in vectors["datagrams_refused"]:
        yield refused(vector, datagram)
    for vector in vectors["replay"]:
        window = Window()
        got = [[number, window.judge(number)] for number, _ in vector["steps"]]
        yield "" if got == vector["steps"] else f"{vector['name']}: {got}"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        lines = list(differences(json.load(file)))
    wrong = [line for line in lines if line]
    for line in wrong:
        print(line)
    print(f"{len(lines)} vectors, {len(wrong)} wrong")
    return 1 if wrong or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
