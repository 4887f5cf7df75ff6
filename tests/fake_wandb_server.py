"""A W&B server of this machine that keeps what it is sent: as much of W&B's protocol as wandb needs to log and resume."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote


class FakeWandbServer:
    """`with FakeWandbServer() as server:` answers at `server.url`.

    Attributes:
        mode: "answers", "hangs" (accepts, never answers) or "fails" (status 500); may change at any time.
        artifacts: name -> its last version: metadata, files (name -> bytes), run, state.
        runs: run id -> history (list of rows), config, summary, exit_code, files (names), upserts (what named it).
    """

    def __init__(self, mode: str = "answers") -> None:
        self.mode = mode
        self.runs: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # wandb's process breaks connections when it is told to end
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeWandbServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if server.mode == "hangs":
                    server._closed.wait()
                    return
                status, reply = (500, {}) if server.mode == "fails" else (200, server._reply(self.path, body))
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return Handler

    def _reply(self, path: str, body: bytes) -> dict[str, Any]:
        with self._lock:
            if path == "/graphql":
                request = json.loads(body)
                return {"data": self._graphql(request.get("operationName"), request.get("variables") or {})}
            if path.endswith("/file_stream"):
                self._stream(path.split("/")[-2], json.loads(body))
            if path.startswith("/artifact/"):
                _, _, artifact, name = path.split("/", 3)
                self.artifacts[artifact]["files"][unquote(name)] = body
            return {}

    def _graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "project", "name": given.get("project"), "entity": {"id": "entity", "name": "someone"}}
        if operation == "RunResumeStatus":
            run = self.runs.get(given["name"])
            return {"model": project | {"bucket": run and self._bucket(given["name"], run)}}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(given["name"], {"history": [], "summary": {}, "files": set(), "upserts": []})
            inserted = not run["upserts"]
            run["upserts"].append(given)
            run["config"] = json.loads(given["config"]) if given.get("config") else run.get("config", {})
            bucket = self._bucket(given["name"], run) | {"project": project, "sweepName": None, "description": None}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if operation == "CreateRunFiles":
            self.runs[given["run"]]["files"] |= set(given["files"])
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if operation == "Viewer":
            return {"viewer": {"id": "viewer", "username": "someone", "entity": "someone", "flags": "{}"}}
        if operation == "CreateArtifact":
            sequence, asked = {"id": "sequence", "latestArtifact": None}, given["input"]
            name, state = asked["artifactCollectionName"], "COMMITTED"
            if asked["artifactTypeName"] == "model":  # of tables nothing is asked for: it is all there
                state, metadata = "PENDING", json.loads(asked.get("metadata") or "{}")
                self.artifacts[name] = {"metadata": metadata, "files": {}, "run": asked["runName"], "state": state}
            return {"createArtifact": {"artifact": {"id": name, "state": state, "artifactSequence": sequence}}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            name = given.get("artifactID") or given["artifactManifestID"].partition("/")[0]
            file = {"id": "f", "uploadUrl": f"{self.url}/artifact/{name}/MANIFEST", "uploadHeaders": []}
            reply = {"artifactManifest": {"id": f"{name}/manifest", "file": file}}
            return {operation[0].lower() + operation[1:]: reply}
        if operation == "CreateArtifactFiles":
            edges = []
            for file in given["input"]["artifactFiles"]:
                url = f"{self.url}/artifact/{file['artifactID']}/{quote(file['name'])}"
                node = {"storagePath": "s", "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
                edges.append({"node": node | {"artifact": {"id": file["artifactID"]}}})
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if operation == "CommitArtifact":
            self.artifacts[given["artifactID"]]["state"] = "COMMITTED"
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
        return {"project": None}  # nothing of that kind

    def _bucket(self, name: str, run: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"id of {name}",
            "name": name,
            "displayName": name,
            "summaryMetrics": json.dumps(run["summary"]),
            "historyLineCount": len(run["history"]),
            "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "config": json.dumps(run["config"]),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _stream(self, name: str, body: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, part in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if file == "wandb-history.jsonl":
                run["history"][part["offset"] : part["offset"] + len(lines)] = lines
            elif file == "wandb-summary.json":
                run["summary"] |= lines[-1]
        if "exitcode" in body:
            run["exit_code"] = body["exitcode"]
