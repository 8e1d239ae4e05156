"""A proxy on loopback between rouse and an S3 server, which counts and does harm. Only the standard library.

rules: functions of a Request that may change what becomes of it; the first that returns something decides:
    {"status": 503}          answered so, without the server
    {"cut": n}               n bytes of the body, then the connection is closed
    {"flip": n}              byte n of the body inverted
    {"stall_s": s}           nothing for s seconds, then the connection is closed
    {"delay_s": s}           answered s seconds later
"""
import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Request:
    def __init__(self, method, path, headers, n):
        self.method, self.path, self.headers, self.n = method, path, headers, n
        self.range = headers.get("Range")

    def is_chunk(self):
        """A range of a snapshot behind its header and chunk table."""
        return self.method == "GET" and self.path.split("?")[0].endswith(".snap") and not (self.range or "").startswith("bytes=0-")

    def is_part(self):
        return self.method == "PUT" and "partNumber=" in self.path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self):
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with proxy.lock:
            proxy.n += 1
            request = Request(self.command, self.path, self.headers, proxy.n)
            proxy.requests.append(request)
        harm = next((h for rule in list(proxy.rules) for h in [rule(request)] if h), {})
        time.sleep(harm.get("delay_s", 0))
        if "stall_s" in harm:
            time.sleep(harm["stall_s"])
            self.close_connection = True
        elif "status" in harm:
            self.answer(harm["status"], [], b"")
        else:
            self.forward(proxy, request, body, harm)

    def forward(self, proxy, request, body, harm):
        upstream = http.client.HTTPConnection("127.0.0.1", proxy.port_behind, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for k, v in self.headers.items():  # Host too: it is signed
                if k.lower() not in ("expect", "connection"):
                    upstream.putheader(k, v)
            upstream.endheaders(body)
            r = upstream.getresponse()
            data = r.read()
            if "flip" in harm and len(data) > harm["flip"]:
                data = data[:harm["flip"]] + bytes([data[harm["flip"]] ^ 0xff]) + data[harm["flip"] + 1:]
            if request.is_chunk():
                with proxy.lock:
                    proxy.chunk_bytes += min(len(data), harm.get("cut", len(data)))
            self.answer(r.status, [h for h in r.getheaders() if h[0].lower() not in ("content-length", "connection")], data,
                        r.getheader("Content-Length"), harm.get("cut"))
        except OSError:
            self.close_connection = True
        finally:
            upstream.close()

    def answer(self, status, headers, data, length=None, cut=None):
        self.send_response_only(status)
        for k, v in headers:
            self.send_header(k, v)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class S3Proxy:
    def __init__(self, port_behind):
        self.port_behind, self.rules, self.requests = port_behind, [], []
        self.n = self.chunk_bytes = 0
        self.lock = threading.Lock()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.proxy = self
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def chunks(self):
        return [r for r in list(self.requests) if r.is_chunk()]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
