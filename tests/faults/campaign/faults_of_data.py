"""Photographs and labels as people keep them, and prepared data: the right values, or one line."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import trial
from PIL import Image

SIZE = (32, 48)
DEPTH = np.random.default_rng(1).integers(500, 9000, SIZE)
CLASSES_MAP = np.kron(np.random.default_rng(2).integers(0, 5, (4, 6)), np.ones((8, 8), int))
EDGES = np.random.default_rng(3).integers(0, 256, SIZE)
MASK = np.kron(np.random.default_rng(4).integers(0, 2, (4, 6)), np.ones((8, 8), int))
NORMAL_COLOURS = np.random.default_rng(5).integers(1, 256, (*SIZE, 3)).astype(np.uint8)
IMAGE = np.kron(np.random.default_rng(6).integers(0, 256, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def folder(work: Path, names=("a", "b"), ending="png") -> Path:
    """Photographs `images/*.ENDING`; labels are added by the input that is tried."""
    (work / "photos" / "images").mkdir(parents=True)
    (work / "photos" / "labels").mkdir()
    for name in names:
        Image.fromarray(IMAGE).save(work / "photos" / "images" / f"{name}.{ending}")
    return work / "photos"


def samples(root: Path, task: str | None, encoding: str | None = None, *, ending="png", images="images/*", **options):
    """Every sample of a folder, checked as at the start of a run."""
    from sak_jax import data

    patterns = {"images": images} | ({task: f"labels/{{id}}.{ending}"} if task else {})
    values = {"name": "folder", "root": str(root), "train": patterns, "on_error": "raise", "resize": False, **options}
    values["encodings"] = {task: encoding} if encoding else {}
    source = data.create_source(values, "train", (task,) if task else (), SIZE)
    try:
        from sak_jax.data import checks

        checks.check_labels(source, (task,) if task else ())
    except ImportError:
        pass  # Versions before there were checks.
    return [source[index] for index in range(len(source))]


def is_refused(read: Callable[[], object]) -> bool:
    """Whether a UserError of one line says what is wrong."""
    from sak_jax.errors import UserError

    try:
        read()
    except UserError as error:
        assert "\n" not in str(error), f"more than one line: {error}"
        return True
    return False


def label(task: str, encoding: str, write: Callable[[Path], object], expected, ending: str) -> Callable:
    """One label file: read as `expected`, or refused where that is None."""

    def attempt(work: Path) -> None:
        root = folder(work, ("a",))
        write(root / "labels" / f"a.{ending}")
        found = []
        if is_refused(lambda: found.extend(samples(root, task, encoding, ending=ending))):
            assert expected is None or expected is EITHER, "refused although it is right"
            return
        assert expected is not None, f"taken in silence: {np.unique(found[0][task])[:8]}"
        if expected is not EITHER:
            np.testing.assert_allclose(found[0][task], expected, atol=1e-4)

    return attempt


EITHER = object()


def image(array, **options) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(np.ascontiguousarray(array)).save(path, **options)


def mode(array, to: str, **options) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(np.asarray(array)).convert(to).save(path, **options)


def palette(indices: np.ndarray, grey: bool, alpha: bool = False) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        picture = Image.fromarray(indices.astype(np.uint8), "P")
        colours = [[n, n, n] if grey else [40 * n % 256, 7 * n % 256, 255 - n] for n in range(256)]
        picture.putpalette(np.array(colours, np.uint8).ravel().tolist())
        picture.save(path, **({"transparency": 0} if alpha else {}))

    return write


def array(values) -> Callable[[Path], object]:
    return lambda path: np.save(path.open("wb"), values, allow_pickle=True)


def with_alpha(values: np.ndarray, alpha: int) -> np.ndarray:
    colours = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    return np.dstack([colours, np.full(values.shape[:2], alpha)]).astype(np.uint8)


def few_bits(values: np.ndarray, bits: int) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values.astype(np.uint8), "P").convert("L").save(path, bits=bits)


def changed(values: np.ndarray, value) -> np.ndarray:
    """The values with another one in the corner."""
    values = np.array(values)
    values[0, 0] = value
    return values


def class_maps() -> Iterator:
    a, u8, u16 = CLASSES_MAP, CLASSES_MAP.astype(np.uint8), CLASSES_MAP.astype(np.uint16)
    right = [
        ("8 bits", image(u8), "png"), ("16 bits", image(u16), "png"), ("bmp", image(u8), "bmp"),
        ("32-bit tiff", image(a.astype(np.int32)), "tif"), ("float tiff", image(a.astype(np.float32)), "tif"),
        ("equal channels", image(np.repeat(u8[..., None], 3, 2)), "png"), ("pgm", image(u8), "pgm"),
        ("opaque alpha", image(with_alpha(u8, 255)), "png"), ("colour palette", palette(u8, False), "png"),
        ("int64 array", array(a), "npy"), ("float array", array(a.astype(float)), "npy"),
        ("leading axis", array(a[None]), "npy"), ("last axis", array(a[..., None]), "npy"),
        ("lossless webp", image(np.repeat(u8[..., None], 3, 2), lossless=True), "webp"),
        ("capital ending", image(u8, format="PNG"), "PNG"), ("png called tif", image(u8, format="PNG"), "tif"),
        ("int8 array", array(a.astype(np.int8)), "npy"), ("big-endian", array(a.astype(">i4")), "npy"),
    ]  # fmt: skip
    for name, write, ending in right:
        yield f"classes, {name}", label("semseg", "index", write, a, ending)
    void = changed(a, 255)
    for name, write in (
        ("255", array(void)), ("-1", array(changed(a, -1))), ("NaN", array(changed(a.astype(float), np.nan))),
        ("65535", array(changed(u16, 65535))), ("-1 of int8", array(changed(a.astype(np.int8), -1))),
    ):  # fmt: skip
        yield f"classes, void as {name}", label("semseg", "index", write, void, "npy")
    wrong = [
        ("jpeg", image(u8, quality=95), "jpg"), ("300 classes", array(changed(a, 300)), "npy"),
        ("fractions", array(a + 0.5), "npy"), ("strings", array(a.astype(str)), "npy"),
        ("infinite", array(changed(a.astype(float), np.inf)), "npy"), ("complex", array(a * 1j), "npy"),
        ("colours", image(NORMAL_COLOURS), "png"), ("alpha 0", image(with_alpha(u8, 0)), "png"),
        ("one-hot", array(np.stack([a == n for n in range(5)], -1)), "npy"), ("another size", image(u8[1:]), "png"),
        ("a dict", array(np.array({"a": 1}, dtype=object)), "npy"), ("objects", array(a.astype(object)), "npy"),
        ("a struct", array(np.zeros(SIZE, "i4,i4")), "npy"), ("one number", array(np.array(3)), "npy"),
        ("nothing", lambda path: path.write_bytes(b""), "png"), ("html", lambda path: path.write_text("<html>"), "png"),
        ("an LFS pointer", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "png"),
        ("lossy webp", image(np.repeat(u8[..., None], 3, 2), quality=50), "webp"),
        ("a folder", lambda path: path.mkdir(), "png"), ("dates", array(a.astype("M8[s]")), "npy"),
        ("two frames", image(u8, save_all=True, append_images=[Image.fromarray(u8)]), "tif"),
        ("negative", array(changed(a, -7)), "npy"), ("2 ** 40", array(changed(a, 2**40)), "npy"),
    ]  # fmt: skip
    for name, write, ending in wrong:
        yield f"classes, {name}", label("semseg", "index", write, None, ending)
    yield "classes, grey palette", label("semseg", "index", palette(u8, True), a, "png")
    yield "classes, transparent palette", label("semseg", "index", palette(u8, False, True), EITHER, "png")
    yield "from 1, void 0 and 255", label("semseg", "index_from_1", image(changed(u8 + 1, 255)), changed(a, 255), "png")


def masks() -> Iterator:
    m = MASK
    for name, write, ending in (
        ("0 and 1", image(m.astype(np.uint8)), "png"), ("0 and 255", image((m * 255).astype(np.uint8)), "png"),
        ("1 bit", image(m.astype(bool)), "png"), ("16 bits", image((m * 65535).astype(np.uint16)), "png"),
        ("16 bits, 0 and 1", image(m.astype(np.uint16)), "png"), ("bool array", array(m.astype(bool)), "npy"),
        ("jpeg", image((m * 255).astype(np.uint8), quality=90), "jpg"), ("floats", array(m.astype(np.float32)), "npy"),
        ("float tiff", image(m.astype(np.float32)), "tif"), ("alpha", image(with_alpha(m * 255, 255)), "png"),
        ("grey and alpha", mode(with_alpha(m * 255, 255), "LA"), "png"), ("int64", array(m * 255), "npy"),
        ("palette", palette(m, False), "png"), ("1-bit tiff", image(m.astype(bool)), "tif"),
    ):  # fmt: skip
        yield f"mask, {name}", label("sal", "binary", write, m, ending)
    for name, write, ending in (
        ("drawn as alpha", image(np.dstack([with_alpha(m * 0, 0)[..., :3], m * 255]).astype(np.uint8)), "png"),
        ("classes 0..4", image(CLASSES_MAP.astype(np.uint8)), "png"), ("colours", image(NORMAL_COLOURS), "png"),
        ("negative", array(m - 1.0), "npy"),
    ):  # fmt: skip
        yield f"mask, {name}", label("sal", "binary", write, None, ending)


def edges() -> Iterator:
    e = EDGES
    for name, write, ending in (
        ("8 bits", image(e.astype(np.uint8)), "png"), ("16 bits", image((e * 257).astype(np.uint16)), "png"),
        ("floats", array(e / 255), "npy"), ("float64 tiff", image((e / 255).astype(np.float32)), "tif"),
    ):  # fmt: skip
        yield f"edges, {name}", label("edge", "fraction", write, e / 255, ending)
    yield "edges, 0 and 1", label("edge", "fraction", image(MASK.astype(np.uint8)), MASK, "png")
    yield "edges, 1 bit", label("edge", "fraction", image(MASK.astype(bool)), MASK, "png")
    for name, write, ending in (
        ("jpeg", image(e.astype(np.uint8)), "jpg"), ("negative", array(-e / 255), "npy"),
        ("beyond 1", array(e / 100.5), "npy"), ("infinite", array(changed(e / 255, np.inf)), "npy"),
    ):  # fmt: skip
        yield f"edges, {name}", label("edge", "fraction", write, None, ending)


def normals() -> Iterator:
    right = (NORMAL_COLOURS / 255 * 2 - 1).astype(np.float32)
    unit = right / np.linalg.norm(right, axis=-1, keepdims=True)
    n16 = NORMAL_COLOURS.astype(np.uint16) * 257
    black = changed(right, 0)

    def by_opencv(path: Path) -> None:
        import cv2

        cv2.imwrite(str(path), n16[..., ::-1])

    yield "normals, 8 bits", label("normals", "rgb_normals", image(NORMAL_COLOURS), right, "png")
    yield "normals, 16 bits", label("normals", "rgb_normals", by_opencv, right, "png")
    yield "normals, black", label("normals", "rgb_normals", image(changed(NORMAL_COLOURS, 0)), black, "png")
    yield "normals, unit vectors", label("normals", "rgb_normals", array(unit), unit, "npy")
    yield "normals, channels first", label("normals", "rgb_normals", array(np.moveaxis(unit, 2, 0)), unit, "npy")
    yield "normals, NaN", label("normals", "rgb_normals", array(changed(unit, np.nan)), changed(unit, 0), "npy")
    yield "normals, alpha 255", label("normals", "rgb_normals", image(with_alpha(NORMAL_COLOURS, 255)), right, "png")
    for name, write, ending in (
        ("jpeg", image(NORMAL_COLOURS), "jpg"), ("one channel", image(EDGES.astype(np.uint8)), "png"),
        ("0..1 as floats", array(NORMAL_COLOURS / 255), "npy"),
        ("0..255 as floats", array(NORMAL_COLOURS * 1.0), "npy"),
        ("int8", array((unit * 127).astype(np.int8)), "npy"), ("bool", array(unit > 0), "npy"),
    ):  # fmt: skip
        yield f"normals, {name}", label("normals", "rgb_normals", write, None, ending)


def depth() -> Iterator:
    d, m = DEPTH, DEPTH / 1000
    mm, metres = lambda write, want, end: label("depth", "millimetres", write, want, end), "metres"  # noqa: E731
    yield "mm, 16 bits", mm(image(d.astype(np.uint16)), m, "png")
    yield "mm, tiff", mm(image(d.astype(np.int32)), m, "tif")
    yield "mm, float array", mm(array(d * 1.0), m, "npy")
    yield "mm, int16", mm(array(d.astype(np.int16)), m, "npy")
    for name, value, kind in (
        ("0", 0, np.uint16), ("65535", 65535, np.uint16), ("-1", -1, np.int16), ("NaN", np.nan, float),
        ("infinite", np.inf, float), ("-infinite", -np.inf, float),
    ):  # fmt: skip
        yield f"mm, nothing as {name}", mm(array(changed(d.astype(kind), value)), changed(m, 0), "npy")
    for name, write, ending in (
        ("8 bits", image((d // 40).astype(np.uint8)), "png"), ("jpeg", image((d // 40).astype(np.uint8)), "jpg"),
        ("negative", array(-d), "npy"), ("metres", array(m), "npy"), ("micrometres", array(d * 1000), "npy"),
        ("colours", image(NORMAL_COLOURS), "png"), ("bool", array(d > 900), "npy"), ("1-bit", image(d > 900), "png"),
    ):  # fmt: skip
        yield f"mm, {name}", mm(write, None, ending)
    for name, write, want, ending in (
        ("floats", array(m.astype(np.float32)), m, "npy"), ("half", array(m.astype(np.float16)), EITHER, "npy"),
        ("npz", lambda path: np.savez(path, m), m, "npz"), ("tiff", image(m.astype(np.float32)), m, "tif"),
        ("nothing as NaN", array(changed(m, np.nan)), changed(m, 0), "npy"),
        ("int16 mm", array(d.astype(np.int16)), None, "npy"),
        ("nothing as infinity", array(changed(m, np.inf)), changed(m, 0), "npy"), ("negative", array(-m), None, "npy"),
        ("floats of mm", array(d * 1.0), None, "npy"), ("npz of two", lambda path: np.savez(path, m, m), None, "npz"),
        ("16-bit png", image(d.astype(np.uint16)), None, "png"),
        ("a dict", array(np.array({"d": m}, object)), None, "npy"),
        ("three channels", array(np.stack([m, m * 2, m], -1)), None, "npy"),
        ("3-d", array(np.zeros((4, *SIZE))), None, "npy"),
    ):  # fmt: skip
        yield f"metres, {name}", label("depth", metres, write, want, ending)


def photographs() -> Iterator:
    def found(write: Callable[[Path], object], count: int | None, pattern="images/*", expected=None) -> Callable:
        def attempt(work: Path) -> None:
            root = folder(work, ())
            write(root / "images")
            held = []
            refused = is_refused(lambda: held.extend(samples(root, None, images=pattern)))
            assert refused == (count is None), "refused" if refused else f"{len(held)} in silence"
            assert refused or len(held) == count, f"{len(held)} of {count}"
            for sample in held if expected is not None else ():
                np.testing.assert_allclose(sample["image"].astype(int), expected, atol=1)

        return attempt

    def saved(*names: str, **options) -> Callable[[Path], None]:
        def write(root: Path) -> None:
            for name in names:
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(IMAGE).save(path, **options)

        return write

    for ending in ("webp", "bmp", "tif", "TIFF", "JPG", "gif", "ppm", "jp2", "JPEG", "png"):
        kind = Image.registered_extensions()[f".{ending.lower()}"]
        yield f"photographs, {ending}", found(saved(f"a.{ending}", f"b.{ending}", format=kind), 2)
    yield (
        "photographs, four names in three folders",
        found(saved(*(f"{place}/{n}.png" for place in "xyz" for n in range(4))), 12, "images/*/*"),
    )
    yield "photographs, jpg and png of one name", found(saved("a.jpg", "a.png"), None)
    yield "photographs, hidden files", found(saved("a.png", "._a.png", ".b.png"), 1)
    yield (
        "photographs, a link to above",
        found(lambda root: (saved("a.png")(root), (root / "up").symlink_to(root)), 1, "images/**"),
    )
    yield (
        "photographs, a link to itself",
        found(lambda root: (saved("a.png")(root), (root / "b.png").symlink_to(root / "b.png")), None),
    )
    yield (
        "photographs, a broken link",
        found(lambda root: (saved("a.png")(root), (root / "b.png").symlink_to(root / "none.png")), None),
    )
    for name in (
        "new\nline.png",
        "e\u0301.png",
        "é.png",
        "a [1].png",
        "a*.png",
        "{id}.png",
        "%s.png",
        " .png",
        "a'\".png",
    ):
        yield f"photographs, called {name!r}", found(saved(name), 1)
    yield "photographs, NFC and NFD of one name", found(saved("e\u0301.png", "é.png"), 2)
    yield (
        "photographs, a name that is no UTF-8",
        found(
            lambda root: (
                saved("a.png")(root),
                os.rename(os.fsencode(root) + b"/a.png", os.fsencode(root) + b"/\xff.png"),
            ),
            1,
        ),
    )
    yield "photographs, none", found(lambda root: None, None)
    yield "photographs, text", found(lambda root: (root / "a.png").write_text("text"), None)
    yield "photographs, cut", found(lambda root: (root / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20)), None)
    yield (
        "photographs, 16-bit grey",
        found(
            lambda root: Image.fromarray((IMAGE[..., 0] * np.uint16(257)).astype(np.uint16)).save(root / "a.png"),
            1,
            expected=np.repeat(IMAGE[..., :1], 3, 2),
        ),
    )
    yield (
        "photographs, floats",
        found(lambda root: Image.fromarray(IMAGE[..., 0].astype(np.float32)).save(root / "a.tif"), None),
    )
    yield "photographs, cmyk", found(lambda root: Image.fromarray(IMAGE).convert("CMYK").save(root / "a.jpg"), 1)
    for kind in ("L", "LA", "P", "RGBA", "1"):
        yield f"photographs, mode {kind}", found(lambda root, kind=kind: mode(IMAGE, kind)(root / "a.png"), 1)
    yield "photographs, a pipe", found(lambda root: (saved("a.png")(root), os.mkfifo(root / "b.png")), 1)
    for pattern in ("../*", "/etc/*", "images/{x}", "", "images/[", "~/x", "images/\0", "nothing/*"):
        yield f"photographs, pattern {pattern!r}", found(saved("a.png"), None, pattern)

    def capitals(work: Path) -> None:
        import logging

        told = []
        handler = logging.Handler()
        handler.emit = lambda record: told.append(record.getMessage())
        for logger in (logging.getLogger(), logging.getLogger("absl")):
            logger.addHandler(handler)
        root = folder(work, ())
        saved("a.jpg", "b.JPG")(root / "images")
        assert len(samples(root, None, images="images/*.jpg")) == 2 or any("b.JPG" in text for text in told), "1 of 2"

    yield "photographs, capital endings beside others", capitals
    for number in (3, 6, 8):

        def turned(work: Path, number=number) -> None:
            root = folder(work, ())
            exif = Image.Exif()
            exif[0x0112] = number
            stored = np.rot90(IMAGE, {3: 2, 6: 1, 8: 3}[number])
            Image.fromarray(np.ascontiguousarray(stored)).save(root / "images" / "a.png", exif=exif)
            Image.fromarray(CLASSES_MAP.astype(np.uint8)).save(root / "labels" / "a.png")
            np.testing.assert_array_equal(samples(root, "semseg")[0]["image"], IMAGE)

        yield f"photographs, EXIF orientation {number}", turned
    for name in ("data [1]", "a*b", "what?", "new\nline", "{id}", "%d", " "):

        def placed(work: Path, name=name) -> None:
            root = folder(work).rename(work / name)
            assert len(samples(root, None)) == 2

        yield f"photographs in a folder called {name!r}", placed


def folder_data() -> Iterator:
    """All of the above."""
    for trials in (class_maps, masks, edges, normals, depth, photographs):
        yield from trials()


def prepared() -> Path:
    """NYUD-v2 and PASCAL-Context, of rooms, prepared into one folder; made once."""
    if not _PREPARED:
        place = Path(tempfile.mkdtemp(prefix="campaign_data_"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)

        def write(_: Path) -> None:
            from sak_jax.data import prepare

            try:
                from sak_jax.data.rooms import layouts
            except ImportError:
                from sak_jax.data import rooms_layouts as layouts
            layouts.write_nyud(place / "nyud", 3, 2, size=SIZE)
            layouts.write_pascal_context(place / "pascal_context", 3, 2, size=SIZE)
            for name in ("nyud", "pascal_context"):
                prepare.prepare(name, place / name, place / "both")

        problem = trial.run(write)
        assert not problem, problem
        _PREPARED.append(place)
    return _PREPARED[0]


_PREPARED: list[Path] = []


def array_record() -> Iterator:
    """Prepared data, damaged or beside others."""

    def read(root: Path, name="nyud") -> list:
        from sak_jax import data

        values = {"name": name, "root": str(root), "on_error": "raise", "resize": False}
        source = data.create_source(values, "train", ("semseg",) if name != "imagenet" else (), SIZE)
        return [source[index] for index in range(len(source))]

    def damaged(pattern: str, damage: Callable[[Path], object]) -> Callable[[Path], None]:
        def attempt(work: Path) -> None:
            whole = read(shutil.copytree(prepared() / "both" / "nyud", work / "whole" / "nyud").parent)
            root = shutil.copytree(prepared() / "both" / "nyud", work / "root" / "nyud")
            damage(next(path for path in sorted(root.rglob("*")) if pattern in path.name))
            held = []
            if not is_refused(lambda: held.extend(read(root.parent))):
                assert len(held) == len(whole), "another number of samples"
                for one, other in zip(held, whole, strict=True):
                    np.testing.assert_array_equal(one["semseg"], other["semseg"])

        return attempt

    from faults_of_runs import content, cut, empty, gone, other_kind

    for pattern in ("train.array_record", "dataset_info.json", "features.json"):
        for damage in (empty, cut, gone, other_kind, content(b"[]"), content(b"\xff\xfe\0")):
            yield f"{pattern} {damage.__name__}", damaged(pattern, damage)

    def versions(work: Path) -> None:
        root = shutil.copytree(prepared() / "both" / "nyud", work / "nyud")
        old, new = next(root.iterdir()), root / "10.0.0"
        for version in ("9.0.0", "10.0.0"):
            other = shutil.copytree(old, root / version)
            info = json.loads((other / "dataset_info.json").read_text()) | {"version": version}
            (other / "dataset_info.json").write_text(json.dumps(info))
        shutil.rmtree(old)
        for shard in (root / "9.0.0").glob("*train.array_record*"):
            shard.write_bytes(b"")  # Read, it would be refused.
        assert new.exists() and len(read(work)) == 3

    def asked_for(work: Path) -> None:
        root = prepared() / "both"
        assert read(root)[0]["id"] == "0001", "another data set under the name nyud"

    def another(work: Path) -> None:
        assert is_refused(lambda: read(prepared() / "both" / "pascal_context", "nyud")), "another data set in silence"

    def foreign(work: Path) -> None:
        root = shutil.copytree(prepared() / "nyud", work / "nyud")
        (root / "dataset_info.json").write_text('{"name": "other"}')
        assert len(read(root)) == 3

    def brackets(work: Path) -> None:
        assert len(read(shutil.copytree(prepared() / "both" / "nyud", work / "a [1]" / "nyud").parent)) == 3

    yield "versions 9 and 10", versions
    yield "two sets in one folder", asked_for
    yield "another set", another
    yield (
        "images under the name imagenet",
        lambda work: _assert(is_refused(lambda: read(prepared() / "both", "imagenet"))),
    )
    yield "foreign metadata beside original files", foreign
    yield "a folder with brackets", brackets


def _assert(condition: bool) -> None:
    assert condition, "taken in silence"


CLASSES = {"folder data": folder_data, "ArrayRecord": array_record}
