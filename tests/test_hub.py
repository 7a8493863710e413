"""Students as folders and repositories: what is written can be loaded, computes the same, and says whose it is."""

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import sak_jax
from sak_jax import hub, recipe
from sak_jax.engine import checkpoints
from sak_jax.errors import UserError
from sak_jax.weights import files, states
from tests import runs
from tools import push_to_hub


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run of the tiny recipe, as far as files go: a checkpoint, results, and what the report keeps."""
    config, workdir = recipe.load(runs.TINY), tmp_path_factory.mktemp("run")
    config.data.root = "/home/somebody/data"
    config.baselines = {"semseg/mIoU": 10.0, "depth/RMSE": 0.4, "edge/odsF": 40.0}
    state = nnx.state(sak_jax.build(config))
    for step in (6, 12):
        checkpoints.write_model(workdir, "multitask", step, recipe.plain(config), state)
    (workdir / "config.json").write_text(config.to_json())
    scores = {"semseg/mIoU": 12.5, "depth/RMSE": 0.5, "edge/odsF": 40.0, "edge/AP": None}
    (workdir / "results.json").write_text(json.dumps({"metrics": scores, "delta_m": 9.9, "steps": 24, "seconds": 9.0}))
    (workdir / "report").mkdir()
    kept = {"command": "python -m sak_jax.main --config=a|b", "versions": {"jax": "0.10.2", "device": "2 x H100"}}
    (workdir / "report" / "report.json").write_text(json.dumps(kept))
    return workdir


def arrays(student):
    return states.export(student.student, states.own(student.student))


def test_a_folder_is_loaded_without_a_network_and_is_the_same_student(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = sak_jax.save_pretrained(workdir, tmp_path / "shared")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    ours, theirs = sak_jax.from_pretrained(folder), sak_jax.from_pretrained(workdir)
    assert ours.stage == "multitask" and ours.tasks == theirs.tasks
    assert dict(ours.config.model) == dict(theirs.config.model)
    for key, value in arrays(theirs).items():
        np.testing.assert_array_equal(arrays(ours)[key], value, err_msg=key)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(ours.student))
    text = (folder / "config.json").read_text()
    assert "somebody" not in text and json.loads(text)["about"]["metrics"]["depth/RMSE"] == 0.5
    again = sak_jax.save_pretrained(ours, tmp_path / "again", name="shared")  # Nothing is lost on the way.
    for name in ("README.md", "config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_card_tells_scores_licences_hardware_and_command(workdir, tmp_path):
    card = (sak_jax.save_pretrained(workdir, tmp_path / "student") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sak_jax\nlicense: apache-2.0\n")
    for words in (
        "| semseg/mIoU | 12.5 |",
        "| edge/AP | - |",
        "single-task models: +0.00 %.",  # +25, -25 and 0 %, whatever the run's own baselines were when it ended.
        "| scene | rooms_scene |",
        "| Apache-2.0 |",
        "2 x H100",
        "`python -m sak_jax.main '--config=a|b'`",
        "jax 0.10.2",
        "24, 9 seconds",
        "24 x 32 pixels",
    ):
        assert words in card, words
    older = sak_jax.save_pretrained(workdir / "checkpoints" / "multitask" / "6", tmp_path / "older")
    card = (older / "README.md").read_text()
    assert "No scores were measured" in card and "2 x H100" in card  # The scores are those of step 12.


def test_licences_that_differ_bind_together(tmp_path):
    config = recipe.load(runs.TINY)
    config.teachers.scene.model = "dinov3_base"
    from sak_jax import model_card

    card = model_card.write("x", recipe.plain(config), "multitask", {}, 1)
    assert "license: other\n" in card and "DINOv3 License" in card and "Apache-2.0" in card
    config.teachers.scene.model = "mine|<b>"
    card = model_card.write("x", recipe.plain(config), "distill", {}, 1)
    assert "mine\\|&lt;b> |  | unknown" in card and "| semseg |" not in card


def test_half_precision_is_half_as_large(workdir, tmp_path):
    whole = sak_jax.save_pretrained(workdir, tmp_path / "whole")
    half = sak_jax.save_pretrained(workdir, tmp_path / "half", half=True)
    sizes = [len((folder / hub.WEIGHTS).read_bytes()) for folder in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    stored = safetensors.numpy.load_file(half / hub.WEIGHTS)
    assert {value.dtype for value in stored.values()} == {np.dtype(np.float16)}
    loaded = arrays(sak_jax.from_pretrained(half))
    for key, value in arrays(sak_jax.from_pretrained(whole)).items():
        assert loaded[key].dtype == np.float32
        np.testing.assert_allclose(loaded[key], value, rtol=1e-3, atol=1e-6, err_msg=key)


def test_an_imported_checkpoint_is_shared_as_one_of_ours(tmp_path):
    pytest.importorskip("torch")
    from sak_jax.methods.sak.published import import_student
    from tests.methods.sak.cases import assert_same, save, tiny_student
    from tests.recipes import published

    config = published.get_config()
    config.image_size, config.model.stem = (32, 32), "tiny"
    config.tasks = {"semseg": {}, "edge": {}}
    weights = sak_jax.pytorch_state(tiny_student())
    import_student(config, save(tmp_path / "sak.pth", weights), tmp_path / "run")
    folder = sak_jax.save_pretrained(tmp_path / "run", tmp_path / "shared")
    assert_same(sak_jax.pytorch_state(sak_jax.from_pretrained(folder).student), weights)
    card = (folder / hub.CARD).read_text()
    assert "No scores were measured" in card and "| dinov2 | dinov2_base |" in card


def test_the_student_of_the_package_predicts():
    student = sak_jax.from_pretrained("rooms")
    found = student.predict(hub.SCENE)
    assert set(found) == {"semseg", "depth", "normals", "edge", "sal"}
    assert 1 < found["depth"].metres.mean() < 8  # A room.
    ceiling = student.config.tasks.semseg.names.index("ceiling")
    assert (found["semseg"].classes[:10] == ceiling).mean() > 0.9
    assert "| scene | rooms_scene |" in (hub.BUNDLED / "rooms" / hub.CARD).read_text()


def damaged_config(folder):
    (folder / hub.CONFIG).write_text("{")


def foreign_config(folder):
    (folder / hub.CONFIG).write_text('{"model_type": "bert"}')


def foreign_recipe(folder):
    content = json.loads((folder / hub.CONFIG).read_text())
    content["recipe"]["batch_size"] = "many"
    (folder / hub.CONFIG).write_text(json.dumps(content))


def lost_array(folder):
    kept = files.read_weights(folder / hub.WEIGHTS)
    kept.pop(next(iter(kept)))
    files.write_safetensors(folder / hub.WEIGHTS, kept)


def cut_weights(folder):
    (folder / hub.WEIGHTS).write_bytes((folder / hub.WEIGHTS).read_bytes()[:-1000])


@pytest.mark.parametrize("damage", [damaged_config, foreign_config, foreign_recipe, lost_array, cut_weights])
def test_a_damaged_folder_is_named(workdir, tmp_path, damage):
    folder = sak_jax.save_pretrained(workdir, tmp_path / "student")
    damage(folder)
    with pytest.raises(UserError, match="student"):
        sak_jax.from_pretrained(folder)


def same_everywhere(workdir, tmp_path):
    """The places of one student by what they are."""
    shared = sak_jax.save_pretrained(workdir, tmp_path / "shared")
    return [workdir, str(workdir), workdir / "checkpoints" / "multitask" / "12", shared]


def test_one_entry_takes_what_holds_a_student(workdir, tmp_path):
    assert sak_jax.load is sak_jax.from_pretrained
    wanted = None
    for place in same_everywhere(workdir, tmp_path):
        student = sak_jax.load(place)
        wanted = wanted or arrays(student)
        assert student.experts == ("stem", "scene", "geometry")
        for key, value in arrays(student).items():
            np.testing.assert_array_equal(value, wanted[key], err_msg=f"{place}: {key}")
    words = repr(student)
    assert "student of sak, stage multitask: tasks semseg, depth, edge; experts stem, scene, geometry" in words
    assert "24 x 32" in words and "shared" in words
    assert "tasks semseg, depth, normals, edge, sal" in repr(sak_jax.load("rooms"))


def test_what_is_asked_of_the_wrong_place_is_told(workdir, tmp_path):
    shared = sak_jax.save_pretrained(workdir, tmp_path / "shared")
    published = tmp_path / "sak.pth"
    published.write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for arguments, options, words in (
        ((published,), {}, "sak-jax import"),
        ((tmp_path / "empty",), {}, "holds no checkpoint"),
        ((shared,), {"best": True}, "best"),
        (("rooms",), {"best": True}, "best"),
        (("owner/name",), {"best": True}, "best"),
        ((shared,), {"revision": "main"}, "revision"),
        ((workdir,), {"revision": "main"}, "revision"),
        (("rooms",), {"revision": "main"}, "revision"),
    ):
        with pytest.raises(UserError, match=words):
            sak_jax.load(*arguments, **options)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/no/where", "s3://bucket/x"])
def test_what_is_nowhere_is_named(name):
    with pytest.raises(UserError, match=name):
        sak_jax.from_pretrained(name)


def test_the_tool_writes_a_folder_and_keeps_what_is_there(workdir, tmp_path, capsys):
    arguments = [f"--checkpoint={workdir}", f"--output={tmp_path / 'student'}", "--half"]
    assert push_to_hub.main(arguments) == 0
    assert push_to_hub.main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert push_to_hub.main([*arguments, "--force"]) == 0
    for wrong in ([], ["--repository=a/b", "--output=c"]):
        assert push_to_hub.main([f"--checkpoint={workdir}", *wrong]) == 2
    assert push_to_hub.main([f"--checkpoint={workdir}", "--repository=a"]) == 2
    assert "owner/name" in capsys.readouterr().err


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as its client wants for uploading and downloading small files."""

    repositories: dict[str, dict[str, bytes]] = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self.answer({"error": "Invalid credentials"}, 401)
        parts = self.path.strip("/").split("/")
        if parts[:3] == ["api", "repos", "create"]:
            given = json.loads(body)
            name = f"{given.get('organization')}/{given['name']}"
            self.repositories.setdefault(name, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        if parts[1] == "validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        assert parts[4] == "commit"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/abc", "commitOid": "a" * 40})

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "whoami-v2"]:
            return self.answer({"name": "me", "type": "user"})
        if parts[:2] == ["api", "models"]:
            return self.answer({"id": "/".join(parts[2:4]), "sha": "a" * 40, "siblings": []})
        content = self.repositories.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
        if parts[2] != "resolve" or content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if content is None else "")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def answer(self, content, status=200):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def endpoint():
    Hub.repositories = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


ROUND_TRIP = """
import sys
import sak_jax
from sak_jax.errors import UserError

print(sak_jax.push_to_hub(sys.argv[1], "somebody/tiny"))
student = sak_jax.from_pretrained("somebody/tiny")
sak_jax.save_pretrained(student, sys.argv[2], name="somebody/tiny")
try:
    sak_jax.from_pretrained("somebody/other")
except UserError as error:
    print("refused:", error)
"""


def client(endpoint, home, code, *arguments, token="hf_secret"):
    """Runs code whose Hub is the stand-in."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=runs.ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_student_goes_to_the_hub_and_comes_back(workdir, tmp_path, endpoint):
    done = client(endpoint, tmp_path / "home", ROUND_TRIP, workdir, tmp_path / "back")
    assert done.returncode == 0, done.stderr
    assert "/somebody/tiny/commit/" in done.stdout
    assert "refused: somebody/other is no folder here, and the Hub does not give" in done.stdout
    uploaded = Hub.repositories["somebody/tiny"]
    assert set(uploaded) == {hub.WEIGHTS, hub.CONFIG, hub.CARD}
    for name, content in uploaded.items():
        assert (tmp_path / "back" / name).read_bytes() == content, name
    done = client(endpoint, tmp_path / "new", ROUND_TRIP, workdir, tmp_path / "back", token="hf_wrong")
    assert done.returncode == 1 and "UserError: somebody/tiny can't be uploaded" in done.stderr
    assert "hf auth login" in done.stderr
