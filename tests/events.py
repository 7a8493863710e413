"""Reading TensorBoard's event files as TensorBoard does."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX.proto import event_pb2


def read(folder) -> dict[str, list[tuple[int, float | np.ndarray]]]:
    """Steps and values (scalars, or pictures) by tag: what a later start takes back is left out."""
    found: dict[str, list] = {}
    for file in sorted(Path(folder).glob("events*")):
        for event in _events(file.read_bytes()):
            if event.session_log.status == event_pb2.SessionLog.START:
                found = {tag: [one for one in ones if one[0] < event.step] for tag, ones in found.items()}
            for value in event.summary.value:
                picture = value.image.encoded_image_string
                one = np.asarray(Image.open(io.BytesIO(picture))) if picture else value.simple_value
                found.setdefault(value.tag, []).append((event.step, one))
    return found


def _events(content: bytes):
    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        place += 12 + length + 4
