"""A bucket on this machine: the part of Google Cloud Storage's JSON API that gcsfs, TensorStore and TensorBoard use."""

import contextlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse

BUCKET = "bucket"


def serve() -> str:
    """Serves the empty bucket `BUCKET` until the process ends, because TensorBoard's writers write when they are freed.

    Returns:
      The address.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.objects, server.uploads, server.lock, server.numbers = {}, {}, threading.Lock(), itertools.count(1)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def environment(address: str) -> dict[str, str]:
    """The variables that make the clients of this and other processes use it."""
    return {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs, google-cloud-storage
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,  # array_record
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks another API for the kind of bucket
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        path, query = self._url(self.path)
        name = _object(path)
        if path.endswith(f"/b/{BUCKET}"):
            self._json({"kind": "storage#bucket", "name": BUCKET, "id": BUCKET, "location": "US"})
        elif path.endswith(f"/b/{BUCKET}/o"):
            self._json(self._list(query.get("prefix", ""), query.get("delimiter", "")))
        elif name not in self.server.objects:
            self._answer(404)
        elif query.get("alt") == "media" or path.startswith("/download"):
            self._download(name, query)
        else:
            self._json(self._metadata(name))

    def do_POST(self) -> None:
        path, query = self._url(self.path)
        body = self._body()
        moved = re.fullmatch(rf"/storage/v1/b/{BUCKET}/o/([^/]+)/(moveTo|rewriteTo/b/{BUCKET})/o/([^/]+)", path)
        if path.startswith("/batch/"):
            self._batch(body.decode())
        elif path == f"/upload/storage/v1/b/{BUCKET}/o":
            self._upload(query, body)
        elif moved and urllib.parse.unquote(moved[1]) in self.server.objects:
            source, target = urllib.parse.unquote(moved[1]), urllib.parse.unquote(moved[3])
            self._write(target, self.server.objects[source][1])
            if moved[2] == "moveTo":
                self._delete(source)
                self._json(self._metadata(target))
            else:
                self._json({"done": True, "resource": self._metadata(target)})
        else:
            self._answer(404)

    do_PUT = do_POST

    def do_DELETE(self) -> None:
        self._answer(self._delete(_object(self._url(self.path)[0])))

    def _list(self, prefix: str, delimiter: str) -> dict:
        names, prefixes = [], set()
        for name in sorted(self.server.objects):
            if name.startswith(prefix):
                head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if found:
                    prefixes.add(prefix + head + found)
                else:
                    names.append(name)
        return {"items": [self._metadata(name) for name in names], "prefixes": sorted(prefixes)}

    def _download(self, name: str, query: dict[str, str]) -> None:
        generation, content = self.server.objects[name]
        headers = {"x-goog-generation": str(generation), "Content-Type": "application/octet-stream"}
        if query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304, b"", headers)
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self._answer(412)
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._answer(200, content, headers)
        if wanted[1]:
            start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1) + 1, len(content))
        else:
            start, end = max(0, len(content) - int(wanted[2])), len(content)
        if start >= len(content):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        return self._answer(206, content[start:end], headers)

    def _upload(self, query: dict[str, str], body: bytes) -> None:
        if "upload_id" in query:
            return self._chunk(query["upload_id"], body)
        name, content = query.get("name"), body
        if query["uploadType"] == "multipart":
            boundary = b"--" + re.search(r"boundary=[\"']?([^\"';]+)", self.headers["Content-Type"])[1].encode()
            parts = [part.lstrip(b"\r\n") for part in body.split(boundary)[1:3]]
            metadata, content = (re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in parts)
            name, content = json.loads(metadata)["name"], re.sub(rb"\r?\n\Z", b"", content)
        elif query["uploadType"] == "resumable":
            upload = str(next(self.server.numbers))
            self.server.uploads[upload] = [name or json.loads(body)["name"], b""]
            location = f"http://{self.headers['Host']}{self.path}&upload_id={upload}"
            return self._answer(200, b"", {"Location": location})
        current = str(self.server.objects.get(name, (0, b""))[0])
        if query.get("ifGenerationMatch", current) != current:
            return self._answer(412)
        self._write(name, content)
        return self._json(self._metadata(name))

    def _chunk(self, upload: str, body: bytes) -> None:
        entry = self.server.uploads[upload]
        entry[1] += body
        total = self.headers.get("Content-Range", f"/{len(body)}").rpartition("/")[2]
        if total == "*" or int(total) > len(entry[1]):
            return self._answer(308, b"", {"Range": f"bytes=0-{len(entry[1]) - 1}"})
        self._write(*self.server.uploads.pop(upload))
        return self._json(self._metadata(entry[0]))

    def _batch(self, body: str) -> None:
        parts = []
        for number, url in enumerate(re.findall(r"^DELETE (\S+) HTTP", body, re.MULTILINE), 1):
            status = self._delete(_object(self._url(url)[0]))
            head = f"Content-Type: application/http\r\nContent-ID: <response-x+{number}>"
            parts.append(f"--batch\r\n{head}\r\n\r\nHTTP/1.1 {status} \r\nContent-Length: 0\r\n\r\n\r\n")
        answer = "".join(parts) + "--batch--"
        self._answer(200, answer.encode(), {"Content-Type": "multipart/mixed; boundary=batch"})

    def _write(self, name: str, content: bytes) -> None:
        with self.server.lock:
            self.server.objects[name] = next(self.server.numbers), content

    def _delete(self, name: str | None) -> int:
        with self.server.lock:
            return 404 if self.server.objects.pop(name, None) is None else 204

    def _metadata(self, name: str) -> dict[str, str]:
        generation, content = self.server.objects[name]
        facts = {"kind": "storage#object", "name": name, "bucket": BUCKET, "generation": str(generation)}
        when = "2025-01-01T00:00:00.000Z"
        return facts | {"size": str(len(content)), "metageneration": "1", "timeCreated": when, "updated": when}

    @staticmethod
    def _url(url: str) -> tuple[str, dict[str, str]]:
        parts = urllib.parse.urlsplit(url)
        return parts.path, dict(urllib.parse.parse_qsl(parts.query))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _json(self, content: dict) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        with contextlib.suppress(ConnectionError):  # Clients drop requests whose answer they no longer need.
            self.end_headers()
            self.wfile.write(content)


def _object(path: str) -> str | None:
    found = re.fullmatch(rf"(?:/download)?/storage/v1/b/{BUCKET}/o/([^/]+)", path)
    return urllib.parse.unquote(found[1]) if found else None
