"""A server that speaks as much of MLflow's REST as the uploader does, in a process that can be killed and frozen.

``python fake_mlflow.py FILE PORT`` keeps all it was told as lines of FILE, each on disk before it is answered, and
knows it again when it is started anew. Like MLflow's it stores a metric point that is sent twice once.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

API = "/api/2.0/mlflow/"


class Store:
    def __init__(self, path):
        self.path = Path(path)
        self.experiments, self.runs, self.points = {}, {}, {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            self.apply(*json.loads(line))
        self.file = self.path.open("a", buffering=1)

    def change(self, what, asked):
        self.file.write(json.dumps([what, asked]) + "\n")
        return self.apply(what, asked)

    def apply(self, what, asked):
        if what == "experiments/create":
            id = self.experiments.setdefault(asked["name"], str(len(self.experiments) + 1))
            return {"experiment_id": id}
        if what == "runs/create":
            id = f"{len(self.runs):032x}"
            info = {"run_id": id, "run_uuid": id, "status": "RUNNING", "lifecycle_stage": "active"}
            info |= {key: asked[key] for key in ("experiment_id", "run_name", "start_time") if key in asked}
            self.runs[id] = {"info": info, "tags": {tag["key"]: tag["value"] for tag in asked.get("tags", [])}}
            self.points[id] = {}
            return {"run": self.shown(id)}
        id = asked["run_id"]
        if what == "runs/update":
            self.runs[id]["info"] |= {key: asked[key] for key in ("status", "end_time", "run_name") if key in asked}
            return {"run_info": self.runs[id]["info"]}
        self.runs[id]["tags"] |= {tag["key"]: tag["value"] for tag in asked.get("tags", [])}
        for point in asked.get("metrics", []):
            kept = self.points[id].setdefault(point["key"], [])
            if point not in kept[-2000:]:
                kept.append(point)
        return {}

    def shown(self, id):
        tags = [{"key": key, "value": value} for key, value in self.runs[id]["tags"].items()]
        return {"info": self.runs[id]["info"], "data": {"tags": tags}}

    def answer(self, what, asked):
        if what == "experiments/get-by-name":
            if (id := self.experiments.get(asked["experiment_name"])) is None:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
            name = asked["experiment_name"]
            return 200, {"experiment": {"experiment_id": id, "name": name, "lifecycle_stage": "active"}}
        if what == "runs/get":
            return 200, {"run": self.shown(asked["run_id"])}
        if what == "runs/search":
            wanted = asked["filter"].split("'")[1]
            return 200, {"runs": [self.shown(id) for id, run in self.runs.items() if wanted in run["tags"].values()]}
        if what == "metrics/get-history":
            return 200, {"metrics": self.points[asked["run_id"]].get(asked["metric_key"], [])}
        if what in ("experiments/create", "runs/create", "runs/update", "runs/log-batch"):
            return 200, self.change(what, asked)
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": f"the fake does not know {what}"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = urlsplit(self.path)
        self.reply(parts.path, dict(parse_qsl(parts.query)))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(self.path, json.loads(body))

    def reply(self, path, asked):
        if path == "/points":  # the tests' own question
            code, told = 200, self.server.store.points
        else:
            code, told = self.server.store.answer(path.removeprefix(API), asked)
        body = json.dumps(told).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class FakeServer:
    """The server's process, as a test holds it."""

    def __init__(self, folder):
        self.file = folder / "told.jsonl"
        self.port = 0
        self.start()

    def start(self):
        command = [sys.executable, __file__, str(self.file), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def send(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    def points(self):
        """Of the only run, by key: (step, value) as they are stored."""
        with urllib.request.urlopen(f"{self.uri}/points", timeout=10) as answer:
            (run,) = json.load(answer).values()
        return {key: [(point["step"], point["value"]) for point in points] for key, points in run.items()}


if __name__ == "__main__":
    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    server.daemon_threads = True
    server.store = Store(sys.argv[1])
    print(server.server_address[1], flush=True)
    server.serve_forever()
