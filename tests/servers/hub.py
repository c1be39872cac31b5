"""A stand-in for the Hugging Face hub's upload API: repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from tests.servers.base import Request, Response, Server

TOKEN = "hf_testTOKENtestTOKEN42"


class HubServer(Server):
    """Creates dataset repositories, takes small files in the commit and large ones over LFS."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.repos: dict[str, dict[str, Any]] = {}
        """Name to `private`, `files` (path to bytes) and `commits` (messages)."""
        self.objects: dict[str, bytes] = {}

    def error_body(self, message: str) -> Any:
        return {"error": message}

    def handle(self, request: Request) -> Response:
        path = request.path.partition("?")[0]
        if path.startswith("/lfs/") and request.method == "PUT":
            oid = path.removeprefix("/lfs/")
            if hashlib.sha256(request.body).hexdigest() != oid:
                return Response.of(self.error_body("wrong checksum"), 400)
            self.objects[oid] = request.body
            return Response()
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            given = request.headers.get("authorization", "")
            return Response.of(self.error_body(f"Invalid credentials {given}"), 401)
        if path == "/api/repos/create":
            return self._create(request.json())
        if path == "/api/validate-yaml":
            return Response.of({"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if match and match[1] in self.repos:
            known = self.repos[match[1]]
            return (
                self._preupload(request)
                if match[2] == "preupload"
                else self._commit(match[1], known, request)
            )
        match = re.fullmatch(r"/datasets/(.+)\.git/info/lfs/objects/batch", path)
        if match and match[1] in self.repos:
            return self._batch(request.json())
        return Response.of(self.error_body(f"no route {request.method} {path}"), 404)

    def _create(self, call: dict[str, Any]) -> Response:
        assert call["type"] == "dataset"
        name = f"{call['organization'] or 'me'}/{call['name']}"
        url = {"url": f"{self.url}/datasets/{name}"}
        if name in self.repos:
            return Response.of({**url, **self.error_body("You already created this repo")}, 409)
        private = call.get("private", call.get("visibility") == "private")
        self.repos[name] = {"private": private, "files": {}, "commits": []}
        return Response.of(url)

    def _preupload(self, request: Request) -> Response:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular",
                "shouldIgnore": False,
            }
            for file in request.json()["files"]
        ]
        return Response.of({"files": files})

    def _batch(self, call: dict[str, Any]) -> Response:
        objects = []
        for item in call["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.objects:
                entry["actions"] = {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}
            objects.append(entry)
        return Response.of({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: dict[str, Any], request: Request) -> Response:
        files: dict[str, bytes] = {}
        for line in request.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                repo["commits"].append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif value["oid"] in self.objects:
                files[value["path"]] = self.objects[value["oid"]]
            else:
                return Response.of(self.error_body("an LFS object is missing"), 400)
        repo["files"] |= files
        oid = hashlib.sha1(request.body).hexdigest()
        url = f"{self.url}/datasets/{name}/commit/{oid}"
        return Response.of({"success": True, "commitOid": oid, "commitUrl": url})
