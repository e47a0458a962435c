"""A stub of a translation server, and a browser that opens its page.

The stub answers as TensorFlow Serving's REST interface does, from functions that a test sets, so
that a test chooses what the page is told, when, and with what mistakes.
"""

import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "training" / "serving" / "page"
MODEL = "number_words"
HEADS = 3

# The policy that training/serving/app.py sends.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self' http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class Stub(http.server.ThreadingHTTPServer):
    """A server on a free loopback port, in its own thread.

    Attributes:
        n_best: From a text to its translations and their scores.
        attention: From source and target to `source_tokens`, `target_tokens` and the weights,
            (heads, target_length, source_length).
        failure: (status, body) in place of every answer to a POST, if not None.
        cors: Whether pages from elsewhere may read the answers, as TensorFlow Serving's
            `--rest_api_enable_cors_support` has it.
        requests: (method, path, body as JSON) of what came.
    """

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.reset()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def reset(self):
        self.n_best, self.attention = shouted, diagonal
        self.failure, self.cors = None, False
        self.state = [{"version": "3", "state": "AVAILABLE"}]
        self.requests = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def predictions(self, signature):
        """Returns the inputs of each request for a signature."""
        bodies = [body for method, _, body in self.requests if method == "POST"]
        return [body["inputs"] for body in bodies if body["signature_name"] == signature]

    def close(self):
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(("GET", self.path, None))
        path = self.path.split("?")[0]
        file = PAGE / (path.lstrip("/") or "index.html")
        if path == "/page.json":
            self._answer(200, {"model": MODEL})
        elif path == f"/v1/models/{MODEL}":
            self._answer(200, {"model_version_status": self.server.state})
        elif file.parent == PAGE and file.is_file():
            self._write(200, file.read_bytes(), TYPES[file.suffix])
        else:
            self._answer(404, {"error": f"Malformed request: GET {path}"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(("POST", self.path, body))
        if self.server.failure:
            status, text = self.server.failure
            self._write(status, text.encode(), "application/json")
        elif self.path != f"/v1/models/{MODEL}:predict":
            self._answer(404, {"error": f"Servable not found for request: {self.path}"})
        elif body["signature_name"] == "n_best":
            rows = map(self.server.n_best, body["inputs"]["text"])
            translations, scores = zip(*rows, strict=True)
            self._answer(200, {"outputs": {"translations": translations, "scores": scores}})
        else:
            pairs = zip(body["inputs"]["source"], body["inputs"]["target"], strict=True)
            names = "source_tokens target_tokens weights".split()
            rows = zip(*(self.server.attention(*pair) for pair in pairs), strict=True)
            self._answer(200, {"outputs": dict(zip(names, rows, strict=True))})

    def _answer(self, status, body):
        self._write(status, json.dumps(body).encode(), "application/json")

    def _write(self, status, content, kind):
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        if self.server.cors:
            self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Keeps the tests quiet."""


def shouted(text):
    """Three translations: in capitals, then with another last word, then another first word."""
    words = text.upper().split()
    others = [[*words[:-1], "OTHER"], ["FIRST", *words[1:]]]
    return [" ".join(best) for best in (words, *others)], [-0.25, -1.0, -2.0]


def pieces(text):
    """Returns words as sub-words, with a space before all but the first, and the end token."""
    first, *others = text.split() or [""]
    return [first, *("\u2581" + word for word in others), "</s>"]


def diagonal(source, target):
    """Gives target token t the weight 0.7 at source token t + h in head h; shares out the rest."""
    sources, targets = pieces(source), pieces(target)
    rest = 0.3 / max(1, len(sources) - 1)
    weights = [
        [
            [0.7 if s == (t + head) % len(sources) else rest for s in range(len(sources))]
            for t in range(len(targets))
        ]
        for head in range(HEADS)
    ]
    return sources, targets, weights


def start_chromium(folder):
    """Starts a headless Chromium, or skips the test and names what is not installed.

    Args:
        folder: For the browser's profile, which is a new one.
    """
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is absent: pip install -e .[dev]"
    )
    names = ["chromium", "chromium-browser", "google-chrome"]
    browser = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("chromium or chromedriver is absent: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"user-data-dir={folder}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    return webdriver.Chrome(options=options, service=service)
