#!/usr/bin/env python3
"""An HTTP/3 GET by an implementation that shares no code with ours (aioquic), with the CA verified.

    http3_get.py --ca CA.pem --connect 127.0.0.1:8443 https://name:8443/path OUT

Writes the body to OUT, prints one JSON line {"status", "headers", "alpn", "length"}. Exit 1 on any error, a stream reset included.
"""

import argparse
import asyncio
import json
import ssl
import sys
from urllib.parse import urlsplit

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset


class Http3Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.headers, self.body = [], bytearray()
        self.done = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if self.done.done():
            return
        if isinstance(event, StreamReset):
            self.done.set_exception(ConnectionError(f"stream reset, code {event.error_code:#x}"))
            return
        if isinstance(event, ConnectionTerminated):
            self.done.set_exception(ConnectionError(f"connection ended: {event.reason_phrase or event.error_code}"))
            return
        for http_event in self.http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.headers = [(name.decode(), value.decode("latin-1")) for name, value in http_event.headers]
            elif isinstance(http_event, DataReceived):
                self.body += http_event.data
            if http_event.stream_ended and not self.done.done():
                self.done.set_result(None)

    async def get(self, authority, path):
        stream = self._quic.get_next_available_stream_id()
        request = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", authority.encode()), (b":path", path.encode())]
        self.http.send_headers(stream, request, end_stream=True)
        self.transmit()
        await self.done


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("out")
    parser.add_argument("--ca", required=True, help="PEM file of the CA to trust")
    parser.add_argument("--connect", required=True, metavar="ADDR:PORT", help="where to connect instead of resolving the name")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for the whole exchange")
    arguments = parser.parse_args()
    url = urlsplit(arguments.url)
    host, _, port = arguments.connect.rpartition(":")
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=url.hostname, verify_mode=ssl.CERT_REQUIRED)
    configuration.load_verify_locations(cafile=arguments.ca)
    async with asyncio.timeout(arguments.timeout):
        async with connect(host.strip("[]"), int(port), configuration=configuration, create_protocol=Http3Client) as client:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            await client.get(url.netloc, path)
            headers = dict(client.headers)
            with open(arguments.out, "wb") as out:
                out.write(client.body)
            print(json.dumps({"status": int(headers[":status"]), "headers": headers, "length": len(client.body)}))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except Exception as error:  # one line, not a traceback: the caller shows it
        print(f"http3_get: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
