"""A stand-in for the Hugging Face Hub on this machine: what its library asks for to push a folder and to fetch one."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "a token that may write"
FIRST = {".gitattributes": b"*.onnx filter=lfs\n"}
LARGE = (".onnx", ".safetensors", ".parquet")


@dataclass
class Repository:
    """What was pushed, commit by commit."""

    asked: dict
    """The request that made it."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False

    @property
    def newest(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """The newest files, but for the one that the Hub itself adds."""
        return {name: content for name, content in self.commits[self.newest].items() if name not in FIRST}

    def commit(self, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha] = files
        return sha


class StandInHub:
    """Serves on a free port while it is entered."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.downloads: list[str] = []
        """Paths of the files that were fetched."""

    def __enter__(self) -> "StandInHub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def use_hub(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process talk to the hub at an address, with a token and this cache."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/(model|space)s/([^/]+/[^/]+)(?:/(tree|revision)/(.+))?", path):
            kind, repo_id, what, revision = found.groups()
            if repository := self._repository(kind, repo_id):
                self._tell(repository, repo_id, what, revision or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo_id, revision, name = found.groups()
            if repository := self._repository("model", repo_id):
                sha = repository.newest if revision == "main" else revision
                if name not in repository.commits[sha]:
                    return self._refuse(404, "EntryNotFound", f"no {name}")
                content = repository.commits[sha][name]
                headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": sha}
                if self.command == "GET":
                    self.hub.downloads.append(name)
                self._send(200, content, headers)
        else:
            self._refuse(404, "EntryNotFound", f"no {path}")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.hub.uploads[self.path.rsplit("/", 1)[1]] = self._body()
        self._send(200, b"")

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, None, "Invalid username or password.")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for wanted in objects:
                wanted["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{wanted['oid']}"}}
            return self._json({"transfer": "basic", "objects": objects})
        kind, repo_id, what = re.fullmatch(r"/api/(model|space)s/([^/]+/[^/]+)/(preupload|commit)/main", path).groups()
        if not (repository := self._repository(kind, repo_id)):
            return None
        if what == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": modes})
        files = dict(repository.commits[repository.newest])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        return self._json({"commitOid": sha, "commitUrl": f"{self.hub.address}/{repo_id}/commit/{sha}"})

    def _create(self, asked: dict) -> None:
        owner, kind = asked.get("organization"), asked.get("type") or "model"
        repo_id = f"{owner}/{asked['name']}"
        url = f"{self.hub.address}/{'spaces/' if kind == 'space' else ''}{repo_id}"
        if owner == "others":
            self._refuse(403, None, "You don't have the rights to create a repository here")
        elif (kind, repo_id) in self.hub.repositories:
            self._json({"error": "You already created this repository", "url": url}, 409)
        else:
            self.hub.repositories[kind, repo_id] = repository = Repository(asked)
            repository.commit(dict(FIRST))
            self._json({"url": url, "id": repo_id})

    def _tell(self, repository: Repository, repo_id: str, what: str | None, revision: str) -> None:
        sha = repository.newest if revision == "main" else revision
        if sha not in repository.commits:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[sha]
        if what == "tree":
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self._json(rows)
        private = repository.asked.get("visibility") == "private" or repository.asked.get("private") is True
        siblings = [{"rfilename": name} for name in files]
        return self._json({"id": repo_id, "sha": sha, "private": private, "siblings": siblings})

    def _repository(self, kind: str, repo_id: str) -> Repository | None:
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif repository.gated:
            self._refuse(403, "GatedRepo", "Access to this model is restricted")
            return None
        return repository

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
