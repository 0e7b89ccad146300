"""The store: whole and verified, or not there; resumable; safe against bundles from outside."""

from __future__ import annotations

import errno
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.rollout.store import Store, Writer
from tests.doubler import put, zipped
from tiermesh import ids, limits
from tiermesh.errors import DigestMismatch, LimitExceeded, StorageFull, TiermeshError

DATA = bytes(range(256)) * 40
DIGEST = ids.digest_bytes(DATA)


def begin(store: Store, offset: int = 0, size: int = len(DATA)) -> Writer:
    return store.writer(DIGEST, size, offset)


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
@given(breaks=st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 300)), max_size=6))
def test_a_push_that_breaks_anywhere_goes_on_after_restarts(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("store")
    for stop, back in breaks:
        store = Store(root)
        offset = max(store.held(DIGEST) - back, 0)
        with begin(store, offset) as writer:
            writer.write(DATA[offset : max(stop, offset)])
    store = Store(root)
    with begin(store, held := store.held(DIGEST)) as writer:
        writer.write(DATA[held:])
        assert writer.finish()
    assert store.path(DIGEST).read_bytes() == DATA


def test_wrong_bytes_are_removed(store: Store) -> None:
    with begin(store) as writer:
        writer.write(DATA[:-1] + b"!")
        with pytest.raises(DigestMismatch, match="is not the artifact"):
            writer.finish()
    assert store.held(DIGEST) == 0


def test_a_push_cannot_begin_where_nothing_is_held(store: Store) -> None:
    with pytest.raises(TiermeshError) as caught:
        begin(store, offset=1)
    assert caught.value.fields["held"] == 0


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

        class Full(io.BytesIO):
            def write(self, _: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        whole = writer._file
        with monkeypatch.context() as patched:
            patched.setattr(writer, "_file", Full(bytes(100)))
            with pytest.raises(StorageFull, match="No space left on device"):
                writer.write(DATA[100:])
        writer._file = whole
    assert store.held(DIGEST) == 100
    with begin(store, 100) as writer:
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
        (zipped({"../out.py": ""}), "leads out of it"),
        (zipped({"/out.py": ""}), "leads out of it"),
        (zipped({"a/../../out.py": ""}), "leads out of it"),
        (zipped({"..\\out.py": ""}), "leads out of it"),
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
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TiermeshError, match=r"refuses the artifact .* Read-only file system"):
        begin(store)
