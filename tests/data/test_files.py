"""Reading one photograph: sizes that are refused, whatever Pillow was told of them."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sak_jax.data import files
from sak_jax.errors import UserError
from tests.faults.test_data_folder import png_of


def test_pillow_may_have_been_told_to_read_anything():
    code = (
        "import PIL.Image; PIL.Image.MAX_IMAGE_PIXELS = None; from sak_jax.data import files; print(files.MAX_PIXELS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(2 * Image.MAX_IMAGE_PIXELS), done.stderr


@pytest.mark.parametrize("ending", ["png", "tif", "gif"])
@pytest.mark.parametrize("limit", [None, Image.MAX_IMAGE_PIXELS])
def test_a_picture_that_is_too_large_may_be_scaled(ending, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    path = tmp_path / f"large.{ending}"
    if ending == "png":
        path.write_bytes(png_of(20000, 10000))
    else:  # One row of a size that is changed in the header.
        Image.fromarray(np.zeros((1, 60000), np.uint8)).save(path)
        content = bytearray(path.read_bytes())
        if ending == "gif":
            content[8:10] = (60000).to_bytes(2, "little")
        else:  # The tag 257, ImageLength: a LONG or a SHORT, either fits 60000 into its first two bytes.
            place = content.index(b"\x01\x01") + 8
            content[place : place + 2] = (60000).to_bytes(2, "little")
        path.write_bytes(content)
    for read in (files.image_size, lambda path: files.decode_image(path.read_bytes(), str(path))):
        with pytest.raises(UserError, match=rf"large\.{ending}: claims .* pixels; .*scale it to 178956970 at most"):
            read(path)
