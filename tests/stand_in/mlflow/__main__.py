"""What `python -m mlflow server` does, for tests: a parent, and a child that listens. Starts in a tenth of a second.

STAND_IN, a JSON object, says what goes wrong: ``delay`` (seconds until it listens), ``silent`` (it never answers),
``dies`` (what it says as it ends), ``notes`` (a file for its arguments and environment), ``login`` (it asks for one).
``runs`` are others than the three it has: id, kind and the run each is a part of.
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ASKED = json.loads(os.environ.get("STAND_IN", "{}"))
EXPERIMENTS = [{"experiment_id": "7", "name": "digits"}, {"experiment_id": "0", "name": "Default"}]
RUNS = [
    {
        "info": {"run_id": name, "run_name": f"run {name}", "status": "FINISHED", "experiment_id": "7"},
        "data": {
            "tags": [
                {"key": key, "value": value}
                for key, value in (("kind", kind), ("mlflow.parentRunId", parent))
                if value is not None
            ]
        },
    }
    for name, kind, parent in ASKED.get("runs", [(name, "train", None) for name in "cba"])
]


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        if ASKED.get("silent"):
            time.sleep(60)
        self.answer("OK" if self.path == "/health" else "")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if ASKED.get("login") and self.headers["Authorization"] != "Basic YWRtaW46c2VjcmV0":
            self.send_error(401)
        elif self.path.endswith("experiments/search"):
            self.answer(json.dumps({"experiments": EXPERIMENTS}))
        else:
            self.answer(json.dumps({"runs": RUNS[: asked["max_results"]]}))

    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format, *values):
        pass


def main(what, *arguments):
    host, port = (arguments[arguments.index(name) + 1] for name in ("--host", "--port"))
    if what == "server":
        if "notes" in ASKED:
            Path(ASKED["notes"]).write_text(json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ)}))
        if "dies" in ASKED:
            print(ASKED["dies"])
            return 1
        subprocess.run([sys.executable, "-m", "mlflow", "listen", *arguments], check=False)
        return 0  # as MLflow does, whatever became of the child
    time.sleep(ASKED.get("delay", 0))
    try:
        server = ThreadingHTTPServer((host, int(port)), Answers)
    except OSError as error:
        print(f"ERROR: {error}")
        return 1
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
