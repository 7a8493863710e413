"""What a student's stem starts from: read, and downloaded."""

import dataclasses
import http.server
import os
import threading

import jax
import numpy as np
import pytest
import torch
from etils import epath
from flax import nnx
from torch.nn import functional

from sak_jax.errors import UserError
from sak_jax.nn import resize, vit
from sak_jax.teachers import stems, vits
from sak_jax.weights import states
from sak_jax.weights.names_augreg import augreg_rules
from tests.methods.sak.cases import student_config
from tools.convert_teacher import main

WIDTH, HEADS, DEPTH, PATCH = 384, 6, 12, 16
CONFIG = student_config("small", (384, 384)).stem


@pytest.fixture(scope="module")
def weights():
    """Random arrays in the names and shapes of the file of ViT-S/16 at 384 pixels."""
    per_head = WIDTH // HEADS
    shapes = {"cls": (1, 1, WIDTH), "embedding/kernel": (PATCH, PATCH, 3, WIDTH), "embedding/bias": (WIDTH,)}
    shapes |= {"Transformer/posembed_input/pos_embedding": (1, 577, WIDTH)}
    shapes |= {"Transformer/encoder_norm/scale": (WIDTH,), "Transformer/encoder_norm/bias": (WIDTH,)}
    shapes |= {"head/kernel": (WIDTH, 1000), "head/bias": (1000,)}
    for block in (f"Transformer/encoderblock_{i}" for i in range(DEPTH)):
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}/{part}/kernel": (WIDTH, HEADS, per_head)}
            shapes |= {f"{attention}/{part}/bias": (HEADS, per_head)}
        shapes |= {f"{attention}/out/kernel": (HEADS, per_head, WIDTH), f"{attention}/out/bias": (WIDTH,)}
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (WIDTH,), f"{block}/{norm}/bias": (WIDTH,)}
        mlp = f"{block}/MlpBlock_3/Dense"
        shapes |= {f"{mlp}_0/kernel": (WIDTH, 4 * WIDTH), f"{mlp}_0/bias": (4 * WIDTH,)}
        shapes |= {f"{mlp}_1/kernel": (4 * WIDTH, WIDTH), f"{mlp}_1/bias": (WIDTH,)}
    rng = np.random.default_rng(0)
    return {key: 0.05 * rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}


def restated(weights, images, grid):
    """The published transformer from its own names, by plain products: tokens after every block."""
    w = {key: torch.tensor(value) for key, value in weights.items()}
    norm = lambda x, name: functional.layer_norm(x, (WIDTH,), w[f"{name}/scale"], w[f"{name}/bias"], 1e-6)  # noqa: E731
    x = functional.conv2d(
        torch.tensor(images).permute(0, 3, 1, 2), w["embedding/kernel"].permute(3, 2, 0, 1), stride=PATCH
    )
    x = x.flatten(2).transpose(1, 2) + w["embedding/bias"]
    x = torch.cat([w["cls"].expand(len(x), -1, -1), x], dim=1)
    positions = w["Transformer/posembed_input/pos_embedding"]
    maps = positions[:, 1:].reshape(1, 24, 24, WIDTH).permute(0, 3, 1, 2)
    maps = functional.interpolate(maps, grid, mode="bicubic", align_corners=False)
    x = x + torch.cat([positions[:, :1], maps.flatten(2).transpose(1, 2)], dim=1)
    outputs = []
    for block in (f"Transformer/encoderblock_{i}" for i in range(DEPTH)):
        attention = f"{block}/MultiHeadDotProductAttention_1"
        y = norm(x, f"{block}/LayerNorm_0")
        q, k, v = (
            torch.einsum("bnc,chd->bhnd", y, w[f"{attention}/{part}/kernel"]) + w[f"{attention}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        scores = torch.softmax(q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5, dim=-1)
        x = x + torch.einsum("bhnd,hdc->bnc", scores @ v, w[f"{attention}/out/kernel"]) + w[f"{attention}/out/bias"]
        y, mlp = norm(x, f"{block}/LayerNorm_2"), f"{block}/MlpBlock_3/Dense"
        y = functional.gelu(y @ w[f"{mlp}_0/kernel"] + w[f"{mlp}_0/bias"])
        x = x + y @ w[f"{mlp}_1/kernel"] + w[f"{mlp}_1/bias"]
        outputs.append(x[:, 1:].reshape(len(x), *grid, WIDTH).numpy())
    return outputs


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("augreg") / "S_16.npz"
    np.savez(path, **weights)
    return path


def loaded(flat, config):
    stem = nnx.eval_shape(lambda: vit.ViT(config, rngs=nnx.Rngs(0)))
    nnx.update(stem, states.like(stem, flat))
    return stem


@pytest.mark.parametrize("size", [(384, 384), (80, 112)])
def test_features_equal_those_of_the_original_network(weights, file, size):
    # 384 pixels is the file's own grid; at the other size the position embedding is resampled once, at loading.
    config = dataclasses.replace(CONFIG, image_size=size)
    flat, grid = stems.read(file, config)
    assert grid == (24, 24)
    path = ("position_embedding",)
    flat[path] = resize.resize_positions(flat[path], grid, config.grid, prefix=1, antialias=False)
    images = np.random.default_rng(1).standard_normal((1, *size, 3), np.float32)
    maps = jax.jit(lambda stem, images: stem(images))(loaded(flat, config), images)
    expected = restated(weights, images, config.grid)
    for tap, ours in zip(config.taps, maps, strict=True):
        assert np.abs(ours - expected[tap]).max() / expected[tap].std() < 1e-4, tap


def test_there_and_back_is_the_identity(weights, file):
    stem = loaded(stems.read(file, CONFIG)[0], CONFIG)
    back = states.export(stem, augreg_rules(CONFIG))
    assert set(weights) - set(back) == {key for key in weights if key.startswith(("head/", "Transformer/encoder_norm"))}
    for key, value in back.items():
        np.testing.assert_array_equal(value, weights[key])


def test_low_rank_updates_are_not_in_it(file):
    flat, _ = stems.read(file, dataclasses.replace(CONFIG, lora=vit.LoRA(2, 4.0)))
    assert ("blocks", "attention", "qkv", "kernel") in flat
    assert not any(str(path[-1]).startswith("lora") for path in flat)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"embedding/bias": np.zeros(768, np.float32)}, "embedding/bias"),
        ({"Transformer/encoderblock_12/LayerNorm_0/bias": np.zeros(WIDTH, np.float32)}, "encoderblock_12"),
        ({"Transformer/posembed_input/pos_embedding": np.zeros((1, 500, WIDTH), np.float32)}, "499 positions"),
        ({"cls": None}, "cls"),
        ({"Transformer/posembed_input/pos_embedding": None}, "pos_embedding is missing"),
    ],
)
def test_other_files_are_refused(weights, tmp_path, change, word):
    changed = {key: value for key, value in (weights | change).items() if value is not None}
    np.savez(tmp_path / "S_16.npz", **changed)
    with pytest.raises(UserError, match=f"S_16.npz.*{word}"):
        stems.read(tmp_path / "S_16.npz", CONFIG)


class Answers(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        """Says nothing."""

    def do_GET(self):
        content, length, status = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A bucket on this machine; what it answers is set by the test."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(stems, "BUCKET", f"http://127.0.0.1:{server.server_port}/augreg")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


def test_a_stem_is_downloaded_to_where_recipes_look(bucket, file, tmp_path, capsys):
    bucket.answer = file.read_bytes(), None, 200
    assert main(["stem_small"]) == 0
    place = tmp_path / ".cache/sak_jax/stems" / stems.FILES["small"]
    assert capsys.readouterr().out == f"wrote {place}\n" and stems.path("small") == epath.Path(place)
    assert place.read_bytes() == file.read_bytes() and os.listdir(place.parent) == [place.name]
    assert main(["stem_small"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["stem_small", "--force"]) == 0


def cut(content):
    return content[:-1000]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda content: (b"no such object", None, 404), "404"),
        (lambda content: (content[:-1000], len(content), 200), "can't be downloaded"),
        (lambda content: (content[:-1000], None, 200), "not a whole .npz"),
        (lambda content: (b"<html>sign in</html>", None, 200), "an HTML page"),
    ],
)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(bucket, file, tmp_path, capsys, answer, words):
    bucket.answer = answer(file.read_bytes())
    assert main(["stem_small"]) == 2
    error = capsys.readouterr().err
    assert words in error and "augreg/S_16-i21k" in error and error.count("\n") == 1
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_without_a_network_the_address_is_told(bucket, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stems, "BUCKET", "http://127.0.0.1:9/augreg")
    assert main(["stem_base", f"--output={tmp_path / 'here'}"]) == 2
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9/augreg/B_16" in error and "--input=FILE" in error and f"{tmp_path}/here/B_16" in error


def test_a_local_file_is_checked_and_taken(file, tmp_path, capsys):
    assert main(["stem_small", f"--input={file}", f"--output={tmp_path}"]) == 0
    assert (tmp_path / stems.FILES["small"]).read_bytes() == file.read_bytes()
    assert main(["stem_base", f"--input={file}", f"--output={tmp_path}"]) == 2
    assert "S_16.npz: " in capsys.readouterr().err
    assert os.listdir(tmp_path) == [stems.FILES["small"]]


def test_the_sizes_are_those_of_the_stems():
    for size in stems.FILES:
        config, stem = vits.config(size, 16, 384), student_config(size, (384, 384)).stem
        assert {name: getattr(config, name) for name in ("width", "depth", "heads", "patch", "eps")} == {
            name: getattr(stem, name) for name in ("width", "depth", "heads", "patch", "eps")
        }
