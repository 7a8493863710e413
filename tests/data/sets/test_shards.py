import io
import os
import pickle
import tarfile

import cv2
import fsspec
import numpy as np
import pytest

from sak_jax import paths
from sak_jax.data import create_source, pipeline, tars, transforms
from sak_jax.data.sets.shards import LIMIT, Images, Shards
from sak_jax.errors import UserError
from tests import gcs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sak_jax" / "shards"


@pytest.fixture
def bucket(monkeypatch):
    for name, value in gcs.environment(gcs.serve()).items():
        monkeypatch.setenv(name, value)
    clients = fsspec.get_filesystem_class("gs")
    clients.clear_instance_cache()  # They remember the address.
    yield "gs://bucket"
    clients.clear_instance_cache()


def image(number, ending=".jpg"):
    pixels = cv2.GaussianBlur(np.random.default_rng(number).integers(0, 256, (40, 56, 3), dtype=np.uint8), (5, 5), 2)
    return cv2.imencode(ending, pixels)[1].tobytes()


def write_shard(path, members, form=tarfile.PAX_FORMAT):
    """Writes a tar file of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def samples(first, count):
    """As WebDataset's writer has them: files of one key follow one another."""
    for number in range(first, first + count):
        key = f"{number:06d}"
        yield f"{key}.jpg", image(number)
        yield f"{key}.cls", b"7"
        yield f"{key}.json", b"{}"


def write_shards(root, counts=(3, 0, 4, 1)):
    for shard, count in enumerate(counts):
        write_shard(root / f"train-{shard:04d}.tar", samples(sum(counts[:shard]), count))
    return root


def contents(source):
    return [source.image_bytes(index) for index in range(len(source))]


def test_every_image_once_decoded_as_it_is(tmp_path):
    root = write_shards(tmp_path / "data")
    source = create_source({"name": "shards", "root": str(root)}, "train", (), (32, 32))
    assert len(source) == 8
    assert sorted(contents(source)) == sorted(image(number) for number in range(8))
    for index in range(8):
        sample = source[index]
        assert set(sample) == {"id", "image"} and sample["id"].startswith(f"{root}/train-000")
        expected = cv2.imdecode(np.frombuffer(source.image_bytes(index), np.uint8), 1)[..., ::-1]
        np.testing.assert_array_equal(sample["image"], expected)
    assert len({source[index]["id"] for index in range(8)}) == 8
    with pytest.raises(IndexError):
        source[8]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_which_members_are_samples(tmp_path, form):
    long = "a" * 60 + "/" + "b" * 90
    members = [
        ("train/0001.jpg", image(0)),
        ("train/0001.png", image(1, ".png")),  # the second image of a key
        ("train/0001.cls", b"3"),
        ("train/.0002.jpg", image(2)),  # hidden
        ("train/._0003.jpg", image(3)),  # what macOS adds
        ("train/0004.seg.png", image(4, ".png")),  # a label: the extension is seg.png
        ("train/0005.JPEG", image(5)),
        ("other/0005.jpeg", image(6)),  # another folder is another key
        ("0006.json", b"{}"),
        ("0006.png", image(7, ".png")),
        ("jpg", image(8)),  # no key
        (f"{long}.webp", image(9, ".webp")),
    ]
    write_shard(tmp_path / "data" / "0.tar", members, form)
    source = Shards(tmp_path / "data", "train")
    expected = [image(0), image(5), image(6), image(7, ".png"), image(9, ".webp")]
    assert sorted(contents(source)) == sorted(expected)
    assert all(source[index]["image"].shape == (40, 56, 3) for index in range(5))


def test_directories_and_links_are_no_samples(tmp_path):
    path = tmp_path / "data" / "0.tar"
    write_shard(path, samples(0, 1))
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.jpg")
            info.type, info.linkname = kind, "000000.jpg"
            archive.addfile(info)
    assert len(Shards(tmp_path / "data", "train")) == 1


def test_shards_are_listed_once_and_again_when_they_changed(tmp_path, monkeypatch):
    root = write_shards(tmp_path / "data", (2, 3))
    read = []
    entries = tars._entries
    monkeypatch.setattr(tars, "_entries", lambda shard: read.append(shard.name) or entries(shard))
    first = Shards(root, "train")
    assert sorted(read) == ["train-0000.tar", "train-0001.tar"]
    assert contents(Shards(root, "train")) == contents(first) and len(read) == 2
    write_shard(root / "train-0002.tar", samples(5, 2))
    assert len(Shards(root, "train")) == 7 and read[2:] == ["train-0002.tar"]
    write_shard(root / "train-0000.tar", samples(10, 1))
    with pytest.raises(UserError, match=r"train-0000\.tar: has changed since it was listed"):
        contents(first)
    assert len(Shards(root, "train")) == 6 and read[3:] == ["train-0000.tar"]


def test_a_listing_lies_in_the_cache_where_it_cannot_lie_beside(tmp_path, cache):
    root = write_shards(tmp_path / "data")
    (root / ".sak_jax_index").write_text("in the way")
    expected = contents(Shards(root, "train"))
    (folder,) = cache.iterdir()
    assert len(list(folder.iterdir())) == 4
    (root / ".sak_jax_index").unlink()
    assert contents(Shards(root, "train")) == expected
    assert not (root / ".sak_jax_index").exists()


def test_batches_are_the_same_from_threads_and_processes_and_after_a_pause(tmp_path):
    source = Shards(write_shards(tmp_path / "data"), "train")
    assert len(pickle.dumps(source)) < 2000
    transform = transforms.distill_transform((32, 32))
    threads = pipeline.train_batches(source, transform, 4, seed=0)
    expected = [next(threads)["image"] for _ in range(5)]
    processes = pipeline.train_batches(source, transform, 4, seed=0, workers=1)
    processes.set_state({"next_batch": 3})
    for batch in expected[3:]:
        np.testing.assert_array_equal(next(processes)["image"], batch)
    processes.close()


def test_several_places_and_the_split(tmp_path):
    write_shards(tmp_path / "a" / "train", (3,))
    write_shards(tmp_path / "a" / "val", (2,))
    write_shard(tmp_path / "b" / "val-0.tar", samples(20, 1))
    write_shard(tmp_path / "b" / "train-0.tar", samples(30, 4))
    write_shard(tmp_path / "b" / "train-1.tar", samples(40, 1))
    root = f"{tmp_path}/a/{{split}}/, {tmp_path}/b/{{split}}-*.tar"
    assert len(Shards(root, "train")) == 8
    assert sorted(contents(Shards(root, "val"))) == sorted(image(number) for number in (0, 1, 20))
    assert len(Shards(f"{tmp_path}/b/train-1.tar", "train")) == 1
    with pytest.raises(UserError, match=r"serves training alone, as there is no \{split\} in it"):
        Shards(tmp_path / "b", "val")
    with pytest.raises(UserError, match=r"names .*train-1\.tar more than once"):
        Shards(f"{tmp_path}/b/*.tar,{tmp_path}/b/*-1.tar", "train")


def test_damaged_shards_are_named_together_or_left_out(tmp_path):
    root = write_shards(tmp_path / "data", (3, 3, 3, 2))
    whole = (root / "train-0000.tar").read_bytes()
    second = whole.index(b"000001.jpg")
    damaged = bytearray(whole)
    damaged[second] ^= 1  # The header's checksum no longer holds.
    (root / "train-0000.tar").write_bytes(damaged)
    (root / "train-0001.tar").write_bytes(whole[: second + 600])
    (root / "train-0002.tar").write_bytes(b"\x1f\x8b" + whole[2:4000])
    with pytest.raises(UserError) as error:
        Shards(root, "train")
    text = str(error.value)
    assert text.startswith("3 problems: ") and text.endswith("replace them, or data.on_error=skip")
    assert f"train-0000.tar: is truncated, or damaged at byte {second}" in text
    assert "train-0001.tar: is truncated within 000001.jpg" in text
    assert "train-0002.tar: is not a whole, uncompressed tar file" in text
    source = Shards(root, "train", on_error="skip")
    assert sorted(contents(source)) == sorted([image(9), image(10)])


def test_a_shard_without_an_end_is_truncated(tmp_path):
    path = tmp_path / "data" / "0.tar"
    write_shard(path, samples(0, 2))
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    path.write_bytes(content[:end])
    with pytest.raises(UserError, match=rf"0\.tar: is truncated, or damaged at byte {end}"):
        Shards(tmp_path / "data", "train")


def checked(block):
    """A header with the checksum that it should have."""
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def sized(header, size):
    return checked(header[:124] + size + header[136:])


def far_long_name(header):
    return checked(sized(header, b"%011o\0" % (8**11 - 1))[:156] + b"L" + header[157:])


DAMAGES = {
    "a negative size": (lambda header: sized(header, b"\xff" * 12), r"0\.jpg would have -\d+ bytes"),
    "4 GiB": (lambda header: sized(header, b"\x80" + (2**32).to_bytes(11, "big")), "would have 4294967296 bytes"),
    "a name of 8 GiB": (far_long_name, "is not a whole, uncompressed tar file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_headers_that_claim_what_cannot_be(tmp_path, damage):
    path = tmp_path / "data" / "0.tar"
    write_shard(path, [("0.jpg", image(0)), ("1.jpg", image(1))], tarfile.USTAR_FORMAT)
    content = path.read_bytes()
    change, message = DAMAGES[damage]
    path.write_bytes(change(content[:512]) + content[512:])
    with pytest.raises(UserError, match=rf"0\.tar: .*{message}"):
        Shards(tmp_path / "data", "train")


def test_a_damaged_map_of_holes(tmp_path):
    path = tmp_path / "data" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("0.jpg")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        info.size = 512
        archive.addfile(info, io.BytesIO(b"none\n".ljust(512, b"\0")))
    with pytest.raises(UserError, match=r"0\.tar: is not a whole, uncompressed tar file"):
        Shards(tmp_path / "data", "train")


def test_whatever_is_damaged_is_told_in_one_line(tmp_path):
    path = tmp_path / "data" / "0.tar"
    write_shard(path, [("a" * 150 + "/0.jpg", image(0)), ("1.jpg", image(1)), ("1.json", b"{}")])
    whole = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 512)
    headers = [number for number, block in enumerate(whole) if block[257:262].tobytes() == b"ustar"]
    rng = np.random.default_rng(0)
    outcomes = set()
    for attempt in range(80):
        content = whole.copy()
        block = content[rng.choice(headers) if attempt % 4 else rng.integers(len(whole))]
        for place in rng.integers(0, 160 if attempt % 2 else 512, 3):
            block[place] = rng.integers(256)
        block[148:156] = ord(" ")  # As if it had been written so, with the right checksum.
        block[148:156] = np.frombuffer(b"%06o\0 " % block.sum(), np.uint8)
        path.write_bytes(content.tobytes())
        try:
            source = Shards(tmp_path / "data", "train")
            outcomes |= {sample["image"].shape for sample in map(source.__getitem__, range(len(source)))}
        except UserError as error:
            outcomes.add("told")
            assert "0.tar" in str(error) or "no member is an image" in str(error)
    assert outcomes >= {"told", (40, 56, 3)}


def test_a_shard_that_cannot_be_read_is_never_left_out(tmp_path, monkeypatch):
    root = write_shards(tmp_path / "data", (2, 2))

    def fail(shard):
        raise OSError("the network is down")

    monkeypatch.setattr(tars, "_entries", fail)
    with pytest.raises(UserError, match=r"train-0000\.tar: cannot be read \(the network is down\); .*train-0001"):
        Shards(root, "train", on_error="skip")


def test_damaged_images_are_named_or_skipped(tmp_path):
    members = [("0.jpg", image(0)), ("1.jpg", image(1)[:-300]), ("2.jpg", image(2))]
    write_shard(tmp_path / "data" / "0.tar", members)
    source = Shards(tmp_path / "data", "train", on_error="skip")
    found = [source[index] for index in range(3)]
    assert sum(sample.get("skipped", False) for sample in found) == 1
    ((_, reason),) = source.skipped.items()
    assert "0.tar/1.jpg: is not a whole PNG or JPEG file" in reason
    with pytest.raises(UserError, match=r"0\.tar/1\.jpg: is not a whole PNG or JPEG file"):
        [Shards(tmp_path / "data", "train")[index] for index in range(3)]


def test_from_a_bucket(tmp_path, cache, bucket):
    local = write_shards(tmp_path / "data")
    for path in local.glob("*.tar"):
        paths.write_bytes(f"{bucket}/shards/{path.name}", path.read_bytes())
    expected = contents(Shards(local, "train"))
    source = Shards(f"{bucket}/shards", "train")
    assert contents(source) == expected
    listings = fsspec.filesystem("gs").ls(f"{bucket}/shards/.sak_jax_index", detail=False, refresh=True)
    assert len(listings) == 5  # Four shards and an explanation.
    assert source[0]["image"].shape == (40, 56, 3)


def test_a_second_host_reads_no_shard_of_a_bucket_through(tmp_path, bucket, monkeypatch):
    local = write_shards(tmp_path / "data")
    for path in local.glob("*.tar"):
        paths.write_bytes(f"{bucket}/shards/{path.name}", path.read_bytes())
    expected = contents(Shards(f"{bucket}/shards", "train"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    monkeypatch.setattr(tars, "_entries", lambda shard: pytest.fail(f"{shard.path} is read through"))
    assert contents(Shards(f"{bucket}/shards", "train")) == expected


def test_what_another_host_listed_meanwhile_is_passed_over(tmp_path, bucket, monkeypatch):
    local = write_shards(tmp_path / "data")
    for path in local.glob("*.tar"):
        paths.write_bytes(f"{bucket}/shards/{path.name}", path.read_bytes())
    place = f"{bucket}/shards"
    Shards(f"{place}/train-0003.tar", "train")
    writable = tars._writable

    def another_host(index):  # It lists a shard after this one has looked.
        shard = tars.find(place)[2]
        tars._write(f"{index}/{shard.listing}", tars._entries(shard).tobytes())
        monkeypatch.setattr(tars, "_entries", lambda shard: read.append(shard.name) or entries(shard))
        return writable(index)

    read, entries = [], tars._entries
    monkeypatch.setattr(tars, "_writable", another_host)
    assert len(Shards(place, "train")) == 8
    assert sorted(read) == ["train-0000.tar", "train-0001.tar"]


def test_the_order_is_scattered_at_any_size_and_needs_no_memory_for_it():
    shards = [tars.Shard("data", f"{number}.tar", 0, "") for number in range(1000)]
    for count in (1000, 10**6):  # images of a shard: 1e6 and 1e9 in all
        images = Images(dict.fromkeys(shards, count))
        order = [images.locate(index) for index in range(4096)]
        places = np.array([int(shard.name.split(".")[0]) * count + number for shard, number in order])
        assert len(set(places)) == 4096
        # Of independent places: 4 standard deviations, 0.0625, of the correlation of 4096 pairs.
        assert abs(np.corrcoef(places[1:], places[:-1])[0, 1]) < 0.0625
        assert len({shard for shard, _ in order[:1000]}) > 580  # 632 +- 10 of 1000 drawn at random
    assert sorted(Images({shard: 3 for shard in shards[:50]})[index] for index in range(150)) == sorted(
        f"data/{shard}.tar/{number}" for shard in range(50) for number in range(3)
    )


def test_more_images_than_can_be_shuffled_are_refused(tmp_path, monkeypatch):
    root = write_shards(tmp_path / "data")
    counts = {shard: LIMIT // 4 + 1 for shard in tars.find(str(root))}
    monkeypatch.setattr(tars, "count_images", lambda folder, shards: (counts, {}))
    with pytest.raises(UserError, match="4294967300 images are more than the 4294967296"):
        Shards(root, "train")


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"there are no tar files none/\*\.tar"):
        Shards("none", "train")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "0.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match="the compressed ones there must be unpacked"):
        Shards(tmp_path / "packed", "train")
    write_shard(tmp_path / "text" / "0.tar", [("0.txt", b"text")])
    with pytest.raises(UserError, match=r"no member is an image, KEY\.jpg, KEY\.jpeg"):
        Shards(tmp_path / "text", "train")
    with pytest.raises(UserError, match="tar shards have no labels for 'semseg'"):
        Shards(tmp_path / "text", "train", ("semseg",))
    with pytest.raises(UserError, match="local or gs://, not s3://"):
        Shards("s3://bucket/x", "train")
    assert os.listdir(tmp_path / "text" / ".sak_jax_index")


def test_a_link_to_nothing_hides_no_shard_and_a_closed_folder_is_named(tmp_path, monkeypatch):
    root = write_shards(tmp_path / "data")
    (root / "notes.txt").symlink_to(tmp_path / "nowhere")
    assert len(Shards(root, "train")) == 8

    def closed(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"data cannot be read \(Permission denied\)"):
        Shards(root, "train")
