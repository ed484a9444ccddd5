"""A server of one weight file on this machine, which can break off, ignore ranges, and lie; and a listener."""

import hashlib
import random
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mlclip.clip.registry import Entry
from mlclip.progress import Bar, Progress

CONTENT = random.Random(0).randbytes(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    content, ranges, status = CONTENT, True, 0  # a status other than 0 is all that is answered
    wrong_range = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks = []  # for each coming answer, the position in the file after which the connection is cut
        self.asked = []  # the Range header of each request, or None

    def entry(self, sha256=SHA256):
        return Entry("Toy", f"http://127.0.0.1:{self.server_address[1]}/models/toy.pt", sha256, 3, 32)

    def handle_error(self, request, client_address):
        """Clients that go away are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        status = server.status or (416 if start >= len(server.content) else 206 if start else 200)
        self.send_response(status)
        end = server.breaks.pop(0) if server.breaks else len(server.content)
        if status in (200, 206):
            self.send_header("Content-Length", str(len(server.content) - start))
            if status == 206:
                shown = start + server.wrong_range
                self.send_header("Content-Range", f"bytes {shown}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if status in (200, 206):
            self.wfile.write(server.content[start:end])

    def log_message(self, *_):
        """Nothing on stderr."""


class Listener(Progress):
    def __init__(self):
        self.lines, self.bars = [], []

    def log(self, line):
        self.lines.append(line)

    @contextmanager
    def bar(self, label, total, unit="", done=0):
        record = {"label": label, "total": total, "unit": unit, "start": done, "done": done}
        self.bars.append(record)

        class Counting(Bar):
            def update(self, done, note=""):
                record["done"] += done

        yield Counting()
