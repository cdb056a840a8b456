"""What runs in the Pods of the node's tests: a small HTTP server that shows what is mounted into it."""

import argparse
import http.server
import os
import signal
import socketserver
import sys
import threading
import time
from pathlib import Path


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/crash":
            os._exit(3)
        if self.path == "/slow":
            time.sleep(0.5)
        # One look at the link, as the SDK does: all files are then of one version.
        data = Path(sys.argv[-1]).joinpath("..data").resolve()
        if self.path == "/caller":
            print(self.client_address[0], flush=True)
        body = " ".join([os.environ["POD"], *(path.read_text() for path in sorted(data.iterdir()))]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        print(self.path, flush=True)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = False  # what is under way is finished

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks DNS for a name


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("directory")
    given = parser.parse_args()
    server = Server((given.host, given.port), Web)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
