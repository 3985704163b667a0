"""Record the bodies of what is posted here, a line each, and answer 204 then.

Usage: receiver.py PORT
"""

import hmac
import http.server
import sys
import threading

with open('broker/password') as file:
    authorization = f'Bearer {file.read().strip()}'
bodies = open('broker/bodies', 'ab')
lock = threading.Lock()


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        if not hmac.compare_digest(self.headers['Authorization'] or '', authorization):
            self.send_error(401)
            return
        with lock:
            bodies.write(body + b'\n')
            bodies.flush()
        self.send_response_only(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Receiver).serve_forever()
