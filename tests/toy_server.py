"""A local server of one weight file that can cut connections, ignore ranges and send wrong data; and a recording Progress."""

import hashlib
import random
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conftest import Told

from mlclip.clip.registry import Entry
from mlclip.progress import Bar

CONTENT = random.Random(0).randbytes(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    content, ranges, status = CONTENT, True, 0  # a status other than 0 is sent instead of the file

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks = []  # for each coming response: the position in the file where the connection is cut
        self.requests = []  # the Range header of each request, or None

    def entry(self, sha256=SHA256):
        return Entry("Toy", f"http://127.0.0.1:{self.server_address[1]}/models/toy.pt", sha256, 3, 32)

    def handle_error(self, request, client_address):
        """Ignore errors: some tests close connections."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, requested = self.server, self.headers.get("Range")
        server.requests.append(requested)
        start = int(re.fullmatch(r"bytes=(\d+)-", requested)[1]) if requested and server.ranges else 0
        status = server.status or (416 if start >= len(server.content) else 206 if start else 200)
        self.send_response(status)
        end = server.breaks.pop(0) if server.breaks else len(server.content)
        if status in (200, 206):
            self.send_header("Content-Length", str(len(server.content) - start))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if status in (200, 206):
            self.wfile.write(server.content[start:end])

    def log_message(self, *_):
        """Write nothing to stderr."""


class Recorder(Told):
    def __init__(self):
        super().__init__()
        self.bars = []

    @contextmanager
    def bar(self, label, total, unit="", done=0):
        record = {"label": label, "total": total, "unit": unit, "start": done, "done": done}
        self.bars.append(record)

        class Counting(Bar):
            def update(self, done, note=""):
                record["done"] += done

        yield Counting()
