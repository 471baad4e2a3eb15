"""The leader's view of a bucket's objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from byok8s.exceptions import StorageError
from byok8s.worker.s3 import ObjectMissing, StorageAway, TransferError, sentences
from byok8s.worker.transfer import ObjectMeta, Transfers, to_meta

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["BucketAway", "ObjectMeta", "Objects"]

_PAGE = 1000  # S3's largest


class Objects:
    """Lists, gets, puts and deletes; every failure is a StorageError of one sentence."""

    def __init__(self, store: S3Store, storage_class: str = "", *, md5_etags: bool = True) -> None:
        """As Transfers: the storage class is that of files and folders."""
        self.transfers = Transfers(store, storage_class, md5_etags=md5_etags)
        self.store = store
        self.bucket = self.transfers.bucket

    def list(self, prefix: str = "", skip: str | None = None) -> dict[str, ObjectMeta]:
        """Objects by key, whose keys begin with PREFIX ('' or with a slash at its end).

        skip is a further prefix below it, of which pages that hold nothing else are not fetched.
        """
        from obstore.exceptions import InvalidPathError

        with _as_storage_error(), sentences("list", self.bucket, prefix):
            try:
                return dict(self._pages(prefix, skip))
            except InvalidPathError:
                from byok8s.storage.listing import list_all

                found = dict(list_all(self.store, prefix))
                return {k: meta for k, meta in found.items() if not (skip and k.startswith(skip))}

    def _pages(
        self, prefix: str, skip: str | None, after: str | None = None
    ) -> Iterator[tuple[str, ObjectMeta]]:
        folder = prefix.rstrip("/") or None
        for page in self.store.list(folder, offset=after, chunk_size=_PAGE):
            for meta in page:
                # a LIST of the folder 'a' could also name the object 'a' itself
                if meta["path"].startswith(prefix) and not (skip and meta["path"].startswith(skip)):
                    yield meta["path"], to_meta(meta)
            if skip and len(page) == _PAGE and page[-1]["path"].startswith(skip):
                # S3 lists in order, and '0' is the letter after '/'
                yield from self._pages(prefix, None, after=f"{skip[:-1]}0")
                return

    def head(self, key: str) -> ObjectMeta | None:
        """What is known of an object; None when there is none."""
        try:
            with _as_storage_error(), sentences("look up", self.bucket, key):
                return to_meta(self.store.head(key))
        except _Missing:
            return None

    def get_bytes(self, key: str) -> bytes | None:
        """A small object's content; None when there is none."""
        try:
            with _as_storage_error(), sentences("read", self.bucket, key):
                return bytes(self.store.get(key).bytes())
        except _Missing:
            return None

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write a small object."""
        with _as_storage_error(), sentences("write", self.bucket, key):
            self.store.put(key, data, use_multipart=False)

    def get_file(self, key: str, path: Path, known: ObjectMeta | None = None) -> ObjectMeta:
        """Download to a file, verified and all at once, unless it is what is known already."""
        with _as_storage_error():
            return self.transfers.get_file(key, path, known)

    def put_file(self, key: str, path: Path) -> ObjectMeta:
        """Upload a file, all at once."""
        with _as_storage_error():
            return self.transfers.put_file(key, path)

    def get_folder(self, key: str, path: Path, names: Iterable[str]) -> None:
        """Download the objects KEY/NAME to a folder, all at once."""
        with _as_storage_error():
            self.transfers.get_folder(key, path, names)

    def put_folder(
        self, key: str, path: Path, old: Iterable[str] | None = None
    ) -> dict[str, ObjectMeta]:
        """Upload a folder as KEY/NAME, in the place of what is there (old, if known)."""
        with _as_storage_error():
            return self.transfers.put_folder(key, path, old)

    def touch(self, key: str) -> ObjectMeta:
        """Write an object again as it is, for a new mtime."""
        with _as_storage_error():
            return self.transfers.touch(key)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete exactly these objects."""
        with _as_storage_error():
            self.transfers.delete(keys)

    @property
    def etags_are_md5(self) -> bool:
        """Whether a plain ETag is the MD5 of the content, as far as is known."""
        return self.transfers.etags_are_md5

    def __repr__(self) -> str:
        return f"Objects({self.bucket!r})"


class BucketAway(StorageError, StorageAway):
    """The store did not answer, or not now, for as long as it was asked."""


class _Missing(StorageError):
    """There is no such object."""


@contextmanager
def _as_storage_error() -> Iterator[None]:
    try:
        yield
    except ObjectMissing as error:
        raise _Missing(str(error)) from None
    except StorageAway as error:
        raise BucketAway(str(error)) from None
    except TransferError as error:
        raise StorageError(str(error)) from None
