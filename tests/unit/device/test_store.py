"""The store: whole and verified, or not there; resumable; safe against bundles from outside."""

from __future__ import annotations

import errno
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.rollout.store import Store, Writer
from tests.doubler import put, zipped
from tiermesh import ids, limits
from tiermesh.chunks import Hashing
from tiermesh.errors import DigestMismatch, LimitExceeded, StorageFull, TiermeshError

DATA = bytes(range(256)) * 40
DIGEST = ids.digest_bytes(DATA)


def digests_of(data: bytes) -> bytes:
    hashing = Hashing(len(data))
    hashing.update(data)
    assert hashing.digest == ids.digest_bytes(data)
    return hashing.chunk_digests


def begin(store: Store, size: int = len(DATA), chunk_digests: bytes = b"") -> Writer:
    return store.writer(DIGEST, size, chunk_digests)


def test_an_artifact_is_there_once_it_is_whole(store: Store) -> None:
    with begin(store) as writer:
        writer.write(DATA[:100])
        assert not writer.finish()
        assert (store.held(DIGEST), store.has(DIGEST), store.digests()) == (100, False, set())
        writer.write(DATA[100:])
        assert writer.finish()
    assert store.path(DIGEST).read_bytes() == DATA
    assert (store.held(DIGEST), store.digests()) == (len(DATA), {DIGEST})
    store.remove(DIGEST)
    assert (store.held(DIGEST), store.has(DIGEST)) == (0, False)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(breaks=st.lists(st.tuples(st.integers(0, len(DATA)), st.booleans()), max_size=6))
def test_a_push_that_breaks_anywhere_goes_on_after_restarts(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[tuple[int, bool]]
) -> None:
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "ARTIFACT_CHUNK_BYTES", 1_000)
        chunk_digests = digests_of(DATA)
        for stop, chunked in breaks:
            store = Store(root)
            with begin(store, chunk_digests=chunk_digests if chunked else b"") as writer:
                assert writer.held == store.held(DIGEST)
                writer.write(DATA[writer.held : max(stop, writer.held)])
                assert writer.verified <= writer.held
        store = Store(root)
        with begin(store, chunk_digests=chunk_digests) as writer:
            writer.write(DATA[writer.held :])
            assert writer.finish()
    assert store.path(DIGEST).read_bytes() == DATA


def test_wrong_bytes_are_removed(store: Store) -> None:
    with begin(store) as writer:
        writer.write(DATA[:-1] + b"!")
        with pytest.raises(DigestMismatch, match="do not match the artifact"):
            writer.finish()
    assert store.held(DIGEST) == 0


@pytest.mark.parametrize("at", [0, 999, 1_000, 9_999, len(DATA) - 1])
def test_a_wrong_chunk_is_dropped_and_what_is_before_it_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(limits, "ARTIFACT_CHUNK_BYTES", 1_000)
    wrong = bytearray(DATA)
    wrong[at] ^= 1
    chunk_digests = digests_of(DATA)
    with begin(store, chunk_digests=chunk_digests) as writer:
        with pytest.raises(DigestMismatch, match="do not match the artifact"):
            writer.write(bytes(wrong))
        assert writer.held == writer.verified == at - at % 1_000
        writer.write(DATA[writer.held :])
        assert writer.finish()


def test_what_the_disk_lost_is_found_when_a_push_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ARTIFACT_CHUNK_BYTES", 1_000)
    with begin(store) as writer:
        writer.write(DATA[:5_500])
    (partial,) = (store.root / "partial").iterdir()
    with partial.open("r+b") as file:
        file.seek(2_500)
        file.write(bytes(100))
    with begin(store, chunk_digests=digests_of(DATA)) as writer:
        assert (writer.held, writer.verified) == (2_000, 2_000)
        writer.write(DATA[2_000:])
        assert writer.finish()


def test_digests_of_another_number_of_chunks_are_refused(store: Store) -> None:
    with pytest.raises(LimitExceeded, match="comes with digests of 31 bytes"):
        begin(store, chunk_digests=bytes(31))


def test_what_is_whole_is_not_written_again(store: Store) -> None:
    put(store, DATA)
    with pytest.raises(TiermeshError, match="already exists"):
        begin(store)


def test_more_than_announced_is_refused(store: Store) -> None:
    with begin(store, size=10) as writer, pytest.raises(LimitExceeded):
        writer.write(DATA[:11])
    with pytest.raises(LimitExceeded):
        begin(store, size=limits.ARTIFACT_BYTES + 1)


def test_the_reserve_is_never_used(tmp_path: Path) -> None:
    store = Store(tmp_path, free_bytes=lambda _: limits.STORE_RESERVE_BYTES + len(DATA) - 1)
    with pytest.raises(StorageFull) as caught:
        begin(store)
    assert "10240 bytes are needed and 10239 may be used" in caught.value.why
    assert store.held(DIGEST) == 0


def test_a_disk_that_fills_up_meanwhile_keeps_what_arrived(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(store) as writer:
        writer.write(DATA[:100])

        whole = writer._file

        class Full(io.BytesIO):
            """Takes a part of what is written, then nothing."""

            def write(self, data: Any) -> int:
                if writer._file.tell() > 100:
                    raise OSError(errno.ENOSPC, "No space left on device")
                self.seek(150)
                return whole.write(data[:50])

            def truncate(self, size: int | None = None) -> int:
                return whole.truncate(size)

        with monkeypatch.context() as patched:
            patched.setattr(writer, "_file", Full(bytes(100)))
            with pytest.raises(StorageFull, match="No space left on device"):
                writer.write(DATA[100:])
        writer._file = whole
    assert store.held(DIGEST) == 100
    with begin(store) as writer:
        writer.write(DATA[100:])
        assert writer.finish()


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "g" * 64, "../../etc/passwd"])
def test_only_digests_are_names(store: Store, text: str) -> None:
    with pytest.raises(TiermeshError, match="is not a digest"):
        store.has(text)


def test_a_bundle_is_unpacked_once(store: Store) -> None:
    artifact = put(store, zipped({"stage.py": "X = 1", "deep/er.py": "Y = 2"}))
    folder = store.unpack(artifact.digest)
    assert (folder / "deep" / "er.py").read_text() == "Y = 2"
    (folder / "mark").touch()
    assert (store.unpack(artifact.digest) / "mark").exists()
    store.remove(artifact.digest)
    assert not folder.exists()


def linked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zipped({"../out.py": ""}), "a path outside of it"),
        (zipped({"/out.py": ""}), "a path outside of it"),
        (zipped({"a/../../out.py": ""}), "a path outside of it"),
        (zipped({"..\\out.py": ""}), "a path outside of it"),
        (linked(), "a link or a special file"),
        (b"PK no zip", "is not a zip"),
    ],
)
def test_a_hostile_bundle_leaves_nothing(store: Store, data: bytes, message: str) -> None:
    artifact = put(store, data)
    with pytest.raises(TiermeshError, match=message):
        store.unpack(artifact.digest)
    assert list((store.path(artifact.digest).parent.parent / "unpacked").iterdir()) == []


def test_a_bundle_that_unpacks_to_too_much_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = put(store, zipped({"zeros": "0" * 5_000}))
    monkeypatch.setattr(limits, "BUNDLE_UNPACKED_BYTES", 4_999)
    with pytest.raises(LimitExceeded, match="5000 bytes"):
        store.unpack(artifact.digest)


def test_a_bundle_that_lies_about_its_size_is_refused(store: Store) -> None:
    honest = zipped({"zeros": "0" * 5_000})
    size = (5_000).to_bytes(4, "little")
    artifact = put(store, honest.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(TiermeshError, match="is not a zip"):
        store.unpack(artifact.digest)


def test_a_folder_that_refuses_is_an_error_in_words(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TiermeshError, match=r"refuses the artifact .* Read-only file system"):
        begin(store)


def with_method(method: int, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("stage.py", data)
    return buffer.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bundle_that_expands_in_memory_before_it_can_be_counted_is_refused(
    store: Store, method: int
) -> None:
    artifact = put(store, with_method(method, bytes(10 * 2**20)))
    with pytest.raises(TiermeshError, match="not stored or deflated"):
        store.unpack(artifact.digest)


def test_a_bundle_whose_file_is_longer_than_it_declares_is_refused(store: Store) -> None:
    data = with_method(zipfile.ZIP_STORED, b"x" * 5_000)
    artifact = put(store, data.replace(struct.pack("<I", 5_000), struct.pack("<I", 10)))
    with pytest.raises(TiermeshError, match="is not a zip"):
        store.unpack(artifact.digest)
