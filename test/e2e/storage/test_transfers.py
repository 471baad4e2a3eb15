"""Files to objects and back, with a proxy between that counts and harms."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from byok8s.cluster import S3Server
from byok8s.worker import transfer
from byok8s.worker.s3 import ObjectMissing, TransferError, open_store
from byok8s.worker.transfer import PART, Transfers
from support.certificates import self_signed
from support.objects import keys, write
from support.s3proxy import Fault, S3Proxy

NAMES = [
    ".zetaA1",
    "plain.txt",
    "with space.txt",
    "ünïcödé-日本.txt",
    "100%.txt",
    "%41+b.txt",
    'it\'s "quoted".txt',
    "a&b=c?d#e;f,g!h~i.txt",
    "[x](y){z}<w>|v^u`t\\s.txt",
    "deep/er/and/deeper.txt",
]


class TestTransfers:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_name_comes_back_under_its_own_key(
        self, transfers: Transfers, client: Any, bucket: str, tmp_path: Path, name: str
    ) -> None:
        transfers.put_file(f"p/{name}", write(tmp_path / "a", name.encode()))
        assert keys(client, bucket) == [f"p/{name}"]
        assert list(transfers.list("p/")) == [name]
        transfers.get_file(f"p/{name}", tmp_path / "out" / name)
        assert (tmp_path / "out" / name).read_bytes() == name.encode()
        transfers.delete([f"p/{name}"])
        assert keys(client, bucket) == []

    @pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART + 17])
    def test_sizes_in_few_requests(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path, size: int
    ) -> None:
        source = write(tmp_path / "a", os.urandom(size))
        stored = transfers.put_file("k", source)
        put = proxy.counts()
        proxy.reset()
        got = transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == source.read_bytes()
        assert (got.size, got.etag) == (size, stored.etag) and transfers.etags_are_md5
        assert (tmp_path / "b").stat().st_mtime == pytest.approx(got.mtime)
        parts = -(-size // PART)
        assert put == ({"PUT": 1} if size <= PART else {"POST": 2, "PUT": parts})
        assert proxy.counts() == {"GET": max(1, parts)}

    @pytest.mark.parametrize("action", ["503", "cut", "truncate", "short", "corrupt"])
    @pytest.mark.parametrize("size", [1000, 2 * PART + 5])
    def test_a_fault_on_the_way_is_mended(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path, action: str, size: int
    ) -> None:
        source = write(tmp_path / "a", os.urandom(size))
        transfers.put_file("k", source)
        proxy.faults.append(Fault("GET", action))
        transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == source.read_bytes()
        if action in ("503", "cut"):
            proxy.faults.append(Fault("PUT", action))
            transfers.put_file("k2", source)
            transfers.get_file("k2", tmp_path / "b")
            assert (tmp_path / "b").read_bytes() == source.read_bytes()

    def test_an_outage_is_outlasted_by_everyone_it_meets(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        """How long retries last is left to chance, so that one transfer alone shows little."""
        source = write(tmp_path / "a", os.urandom(1000))
        transfers.put_file("k", source)
        proxy.go_away(4.0)
        with ThreadPoolExecutor(24) as pool:
            puts = [pool.submit(transfers.put_file, f"k{i}", source) for i in range(12)]
            gets = [pool.submit(transfers.get_file, "k", tmp_path / f"b{i}") for i in range(12)]
            for transfer in (*puts, *gets):
                transfer.result()
        assert all((tmp_path / f"b{i}").read_bytes() == source.read_bytes() for i in range(12))

    @pytest.mark.parametrize("action", ["short", "truncate"])
    def test_a_lasting_fault_is_an_error_and_never_a_short_file(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path, action: str
    ) -> None:
        transfers.put_file("k", write(tmp_path / "a", os.urandom(1000)))
        write(tmp_path / "b", b"before")
        proxy.faults.append(Fault("GET", action, times=1000))
        store = open_store(transfers.bucket, retries=2)
        with pytest.raises(TransferError, match=rf"s3://{transfers.bucket}/k"):
            Transfers(store).get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == b"before"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]

    @pytest.mark.parametrize("size", [1000, 2 * PART + 5])
    def test_what_is_damaged_on_its_way_to_the_server_is_an_error(
        self, transfers: Transfers, proxy: S3Proxy, client: Any, tmp_path: Path, size: int
    ) -> None:
        source = write(tmp_path / "a", os.urandom(size))
        proxy.faults.append(Fault("PUT", "damage"))
        with pytest.raises(TransferError, match=rf"write s3://{transfers.bucket}/k: .*SHA256"):
            transfers.put_file("k", source)
        assert keys(client, transfers.bucket) == []

    def test_a_lost_answer_to_the_end_of_an_upload_is_looked_up(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        source = write(tmp_path / "a", os.urandom(2 * PART + 5))
        proxy.faults.append(Fault("POST", "lose", skip=1))
        proxy.faults.append(
            Fault("POST", "404", skip=1)
        )  # asked again, some servers know it no more
        meta = transfers.put_file("k", source)
        # the DELETE ends the upload, of which nobody knows any more
        assert proxy.counts() == {"POST": 3, "PUT": 3, "DELETE": 1, "HEAD": 1}
        assert transfers.get_file("k", tmp_path / "b") == meta._replace(mtime=ANY)
        assert (tmp_path / "b").read_bytes() == source.read_bytes()

    @pytest.mark.parametrize("large", [True, False])
    def test_the_end_of_a_large_upload_may_take_a_server_long(
        self,
        transfers: Transfers,
        proxy: S3Proxy,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        large: bool,
    ) -> None:
        monkeypatch.setattr(transfer, "READ_SECONDS", 0.5)
        monkeypatch.setattr(transfer, "_SLOWEST_END", PART if large else 100 * PART)
        source = write(tmp_path / "a", os.urandom(2 * PART + 5))
        proxy.faults.append(Fault("POST", "late", seconds=1.0, skip=1))
        impatient = Transfers(open_store(transfers.bucket, read_timeout=0.5, retries=0))
        with nullcontext() if large else pytest.raises(TransferError, match="does not answer"):
            impatient.put_file("k", source)

    def test_an_upload_that_did_not_come_to_its_end_is_an_error_though_there_is_an_older_object(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        source = write(tmp_path / "a", os.urandom(2 * PART + 5))
        transfers.put_file("k", source)
        proxy.faults.append(Fault("POST", "404", skip=1))
        with pytest.raises(TransferError, match=rf"s3://{transfers.bucket}/k"):
            transfers.put_file("k", source)

    def test_folders_and_files_travel_side_by_side(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        names = [f"{i}" for i in range(20)]
        for name in names:
            write(tmp_path / "a" / name, b"x" * 1024)
        proxy.latency = 0.05
        began = time.monotonic()
        transfers.put_folder("d", tmp_path / "a", [])
        middle = time.monotonic()
        transfers.get_folder("d", tmp_path / "b", names)
        # one after the other, each way would take a second
        assert middle - began < 0.5 and time.monotonic() - middle < 0.5
        assert proxy.counts() == {"PUT": 21, "GET": 20}

    def test_a_silent_server_is_given_up(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        source = write(tmp_path / "a", b"x")
        transfers.put_file("k", source)
        impatient = Transfers(open_store(transfers.bucket, read_timeout=0.3))
        proxy.faults += [Fault("GET", "hang"), Fault("PUT", "hang")]
        impatient.get_file("k", tmp_path / "b")
        impatient.put_file("k", source)
        assert proxy.counts() == {"PUT": 3, "GET": 2}

    def test_etags_that_are_no_md5_are_found_out_once(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        transfers.put_file("k", write(tmp_path / "a", b"data"))
        proxy.faults.append(Fault("GET", "corrupt", times=2))  # as if it were meant
        transfers.get_file("k", tmp_path / "b")
        assert not transfers.etags_are_md5
        proxy.reset()
        transfers.get_file("k", tmp_path / "b")
        assert proxy.counts() == {"GET": 1}

    def test_an_object_replaced_while_it_is_read_is_no_mixture(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        first, second = os.urandom(3 * PART), os.urandom(3 * PART)
        transfers.put_file("k", write(tmp_path / "a", first))
        write(tmp_path / "a", second)
        original, done = transfers._downloads._ranges, []

        def replaced_meanwhile(*args: Any) -> str:
            if not done:
                done.append(True)
                Transfers(open_store(transfers.bucket)).put_file("k", tmp_path / "a")
            return original(*args)

        transfers._downloads._ranges = replaced_meanwhile  # type: ignore[method-assign]
        transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == second

    def test_sentences_without_secrets(self, proxy: S3Proxy, bucket: str, tmp_path: Path) -> None:
        with pytest.raises(ObjectMissing, match=rf"no object s3://{bucket}/nope"):
            Transfers(open_store(bucket)).get_file("nope", tmp_path / "b")
        with pytest.raises(ObjectMissing, match="bucket 'not-there' does not exist"):
            Transfers(open_store("not-there")).list("")
        os.environ["AWS_SECRET_ACCESS_KEY"] = "wrong-secret-marker"
        with pytest.raises(TransferError) as caught:
            Transfers(open_store(bucket)).put_file("k", write(tmp_path / "a", b"x"))
        shown = f"{caught.value!r} {caught.value.__cause__} {open_store(bucket)!r}"
        assert "does not accept the credentials (SignatureDoesNotMatch)" in shown
        assert "marker" not in shown and "access-key" not in shown and "\n" not in shown
        with pytest.raises(TransferError, match=r"at http://127\.0\.0\.1:1 cannot be reached"):
            Transfers(open_store("b-1", "http://127.0.0.1:1", retries=1)).list("")

    def test_tls_with_an_authority_of_ones_own(
        self, proxy: S3Proxy, server: S3Server, bucket: str, tmp_path: Path
    ) -> None:
        pem, certificate = tmp_path / "server.pem", tmp_path / "server.crt"
        self_signed(pem, certificate, authority=False)
        with S3Proxy(server.endpoint_url, certificate=pem) as tls:
            trusting = open_store(bucket, tls.endpoint_url, ca_file=str(certificate), retries=1)
            Transfers(trusting).put_file("k", write(tmp_path / "a", b"x"))
            assert tls.counts() == {"PUT": 1}
            with pytest.raises(TransferError, match=r"is not trusted \(UnknownIssuer\)"):
                Transfers(open_store(bucket, tls.endpoint_url, retries=0)).list("")

    def test_a_file_that_changes_meanwhile_is_an_error(
        self, transfers: Transfers, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "a", b"x" * 10)
        put = transfers.store.put

        class Slow:
            config = transfers.store.config

            def put(self, *args: Any, **kwargs: Any) -> Any:
                path.write_bytes(b"y" * 11)
                return put(*args, **kwargs)

        transfers.store = Slow()  # type: ignore[assignment]
        with pytest.raises(TransferError, match=r"changed while it was written"):
            transfers.put_file("k", path)


class TestConnections:
    def test_a_lost_connection_is_tried_again_soon(
        self, server: S3Server, proxy: S3Proxy, bucket: str
    ) -> None:
        """A full queue of connections loses SYNs, as a network may that is only just there."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
            address = deaf.getsockname()
            fill = [socket.socket() for _ in range(4)]
            for one in fill:
                one.setblocking(False)
                one.connect_ex(address)
            store = open_store(bucket, f"http://127.0.0.1:{address[1]}", retries=0)
            began = time.monotonic()
            with pytest.raises(TransferError, match="cannot be reached or does not answer"):
                Transfers(store).list("")
            assert time.monotonic() - began < 4
            for one in fill:
                one.close()
